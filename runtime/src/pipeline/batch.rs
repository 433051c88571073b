//! Collecting decisions, and writing them until they are written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::run::Delivery;
use super::shard::backoff;
use crate::broker::{Broker, EntryId, Settled, Source};
use crate::outcome::{Decision, Settlement};
use crate::stats::VersionStats;

/// Decisions that are written together. Measured: more do not make a call cheaper.
const MAX_DELIVERIES: usize = 100;
/// Bytes of follow-ups and of state, seen or written, that are settled together: nothing else runs on Redis meanwhile.
const MAX_BYTES: usize = 128 << 10;
/// The longest that a decision waits for company.
const MAX_WAIT: Duration = Duration::from_millis(2);

/// The obligation to settle one entry.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) source_at: usize,
    pub(super) source: Arc<Source>,
    pub(super) entry: EntryId,
    pub(super) suspect: bool,
    pub(super) counted: Counted,
    /// The counters of the version that it ran on, if it was run.
    pub(super) ran: Option<Arc<VersionStats>>,
}

/// How an ack is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// The handler was run.
    Handled,
    /// The handler does not want events of this type.
    Skipped,
    /// The handler has handled the event before.
    Duplicate,
}

/// What the thread has to remember about a settlement.
pub(super) struct Note {
    pub(super) lane: usize,
    pub(super) source: usize,
    pub(super) suspect: bool,
    pub(super) counted: Counted,
    pub(super) ran: Option<Arc<VersionStats>>,
    /// What was run, if it may have to be run again.
    pub(super) delivery: Option<Box<Delivery>>,
}

/// Decisions that have not been sent.
#[derive(Default)]
pub(super) struct Batch {
    settlements: Vec<Settlement>,
    notes: Vec<Note>,
    bytes: usize,
    since: Option<Instant>,
}

impl Batch {
    /// Turns a ticket into a settlement. `delivery` is what was run, if it may have to be run again.
    pub(super) fn push(&mut self, lane: usize, ticket: Ticket, decision: Decision, delivery: Option<Box<Delivery>>) {
        if let Decision::Ack { publishes, state, .. } = &decision {
            self.bytes += publishes.iter().map(|publication| publication.event.size()).sum::<usize>();
            self.bytes += state.as_ref().map_or(0, |change| change.changes.bytes());
        }
        let Ticket { source_at, source, entry, suspect, counted, ran } = ticket;
        self.settlements.push(Settlement { source, entry, decision });
        self.notes.push(Note { lane, source: source_at, suspect, counted, ran, delivery });
        self.since.get_or_insert_with(Instant::now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.settlements.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.settlements.len() >= MAX_DELIVERIES || self.bytes >= MAX_BYTES
    }

    /// When the oldest decision has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + MAX_WAIT)
    }

    /// Whether to write now. `idle`: nothing else is coming.
    pub(super) fn is_ready(&self, now: Instant, idle: bool) -> bool {
        !self.is_empty() && (self.is_full() || idle || self.due().is_some_and(|due| now >= due))
    }

    pub(super) fn take(&mut self) -> (Vec<Settlement>, Vec<Note>) {
        let taken = std::mem::take(self);
        (taken.settlements, taken.notes)
    }
}

/// A batch that has been answered.
pub(super) struct SettleDone {
    pub(super) settlements: Vec<Settlement>,
    pub(super) notes: Vec<Note>,
    pub(super) results: Vec<Settled>,
    /// It had been refused before.
    pub(super) repeated: bool,
    /// It had been sent before, and the answer was lost: what is superseded now may have been applied then.
    pub(super) resent: bool,
}

/// Sends the batch until it has been answered. What was applied although the answer was lost is refused as settled
/// the next time, which is why sending again is safe.
pub(super) async fn settle_until_written(
    broker: &dyn Broker,
    consumer: &str,
    settlements: Vec<Settlement>,
    notes: Vec<Note>,
    repeated: bool,
) -> SettleDone {
    let mut failures = 0u32;
    loop {
        match broker.settle(consumer, &settlements).await {
            Ok(results) => {
                return SettleDone { settlements, notes, results, repeated, resent: failures > 0 };
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let pause = backoff(failures);
                if failures.is_power_of_two() {
                    tracing::warn!(deliveries = settlements.len(), ?pause, "cannot settle, will try again: {error}");
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}
