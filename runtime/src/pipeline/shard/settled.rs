//! What the broker has made of decisions, and what becomes of their deliveries.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::super::batch::{Counted, Note, SettleDone};
use super::super::lane::Lane;
use super::{HELD_PAUSE, Shard};
use crate::broker::Settled;
use crate::outcome::{Decision, Settlement};

impl Shard {
    /// A batch has been answered.
    pub(super) fn settled(&mut self, way: usize, done: SettleDone) {
        let mut refused: BTreeMap<usize, (Vec<Settlement>, Vec<Note>)> = BTreeMap::new();
        let done_all = done.settlements.into_iter().zip(done.notes).zip(done.results);
        for ((settlement, note), settled) in done_all {
            let lane = &mut self.lanes[note.lane];
            let (is_stale, is_over_quota) = (settled == Settled::Stale, settled == Settled::OverQuota);
            match settled {
                Settled::Refused(why) => {
                    if lane.held == 0 {
                        let handler = lane.deployment.id();
                        tracing::error!(alarm = "settle_refused", handler, "Redis refuses what the handler did: {why}");
                    }
                    if !done.repeated {
                        lane.stats.blocked.fetch_add(u64::from(lane.held == 0), Ordering::Relaxed);
                        lane.held += 1;
                    }
                    // The tenant may have got another user meanwhile.
                    let (settlements, notes) = refused.entry(lane.way).or_default();
                    settlements.push(settlement);
                    notes.push(note);
                    continue;
                }
                Settled::Applied => count(lane, &settlement, &note),
                Settled::Duplicate => lane.stats.duplicate.add(1),
                Settled::Stale | Settled::OverQuota => {
                    // It was counted when the handler was done, and will be once more.
                    if let Decision::Ack { publishes, .. } = &settlement.decision {
                        self.tenants[lane.tenant].budget.give_back_out(publishes);
                    }
                }
                // The one who was first may have been this worker.
                Settled::Superseded => lane.stats.superseded.add(u64::from(!done.resent)),
            }
            lane.unsettled -= 1;
            if done.repeated {
                lane.held -= 1;
                lane.stats.blocked.fetch_sub(u64::from(lane.held == 0), Ordering::Relaxed);
            }
            match note.delivery {
                Some(delivery) if is_stale => self.outdated(note.lane, delivery, &settlement),
                Some(delivery) if is_over_quota => self.over_quota(note.lane, delivery),
                delivery => {
                    lane.sources[note.source].open -= 1;
                    lane.suspects -= usize::from(note.suspect);
                    delivery.iter().for_each(|delivery| lane.pass_on(delivery));
                }
            }
            self.touch(note.lane);
        }
        for (way, (settlements, notes)) in refused {
            // The lanes concerned stand still until it is written.
            self.start_settle(way, settlements, notes, Some(HELD_PAUSE));
        }
        if !done.repeated {
            self.ways.settled(way);
            self.answered = Instant::now();
        }
    }
}

/// Counts what has been written, and notes when a parked entry is due.
fn count(lane: &mut Lane, settlement: &Settlement, note: &Note) {
    match &settlement.decision {
        Decision::Ack { publishes, .. } => {
            let counter = match note.counted {
                Counted::Handled => &lane.stats.acked,
                Counted::Skipped => &lane.stats.skipped,
                Counted::Duplicate => &lane.stats.duplicate,
            };
            counter.add(1);
            if let Some(ran) = &note.ran {
                ran.acked.add(1);
            }
            lane.stats.published.add(publishes.len() as u64);
        }
        Decision::Park { pause } => {
            lane.stats.retried.add(1);
            if let Some(ran) = &note.ran {
                ran.retried.add(1);
            }
            let due = Instant::now() + *pause;
            let source = &mut lane.sources[note.source];
            source.due_at = Some(source.due_at.map_or(due, |known| known.min(due)));
        }
        Decision::DeadLetter(_) => {
            lane.stats.dead.add(1);
            if let Some(ran) = &note.ran {
                ran.dead.add(1);
            }
        }
    }
}
