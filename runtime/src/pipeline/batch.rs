//! Collecting decisions, and writing them until they are written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::run::Delivery;
use super::shard::backoff;
use crate::broker::{Broker, EntryId, Settled, Source};
use crate::outcome::{Decision, Settlement};
use crate::stats::VersionStats;

/// What is written together, in acks and follow-ups: about a millisecond of Redis, on which nothing else runs meanwhile.
/// Measured: more do not make a call cheaper.
const MAX_WRITES: usize = 200;
/// A dead letter costs Redis as much as so many of them: it is copied.
const DEAD_LETTER: usize = 20;
/// Bytes of follow-ups, dead letters and state, seen or written, that are settled together. Measured: a script takes about
/// a nanosecond for each, several times.
const MAX_BYTES: usize = 128 << 10;
/// Follow-ups, and bytes of them and of state, of a decision that need not wait behind heavier ones.
const LIGHT_WRITES: usize = 8;
const LIGHT_BYTES: usize = 8 << 10;
/// The longest that a decision waits for company.
const MAX_WAIT: Duration = Duration::from_millis(2);
/// The same if one of them is of a handler that has little to do.
const MAX_PROMPT_WAIT: Duration = Duration::from_micros(500);

/// The obligation to settle one entry.
#[derive(Clone)]
pub(super) struct Ticket {
    pub(super) source_at: usize,
    pub(super) source: Arc<Source>,
    pub(super) entry: EntryId,
    /// The size of the entry.
    pub(super) bytes: usize,
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

/// What a decision costs Redis.
pub(super) struct Weight {
    writes: usize,
    bytes: usize,
}

impl Weight {
    /// That of a decision about an entry of so many bytes.
    pub(super) fn of(decision: &Decision, entry_bytes: usize) -> Weight {
        match decision {
            Decision::Ack { publishes, state, .. } => {
                let published: usize = publishes.iter().map(|publication| publication.event.size()).sum();
                let changed = state.as_ref().map_or(0, |change| change.changes.bytes());
                Weight { writes: 1 + publishes.len(), bytes: published + changed }
            }
            Decision::DeadLetter(_) => Weight { writes: DEAD_LETTER, bytes: entry_bytes },
            Decision::Park { .. } => Weight { writes: 1, bytes: 0 },
        }
    }

    /// Whether it is little.
    pub(super) fn is_light(&self) -> bool {
        self.writes <= LIGHT_WRITES && self.bytes <= LIGHT_BYTES
    }
}

/// Decisions that have not been sent.
#[derive(Default)]
pub(super) struct Batch {
    settlements: Vec<Settlement>,
    notes: Vec<Note>,
    writes: usize,
    bytes: usize,
    since: Option<Instant>,
    /// One of them is not to wait.
    is_prompt: bool,
}

impl Batch {
    /// Turns a ticket into a settlement. `delivery` is what was run, if it may have to be run again.
    pub(super) fn push(
        &mut self,
        (lane, is_prompt): (usize, bool),
        weight: Weight,
        ticket: Ticket,
        decision: Decision,
        delivery: Option<Box<Delivery>>,
    ) {
        let Ticket { source_at, source, entry, suspect, counted, ran, .. } = ticket;
        self.writes += weight.writes;
        self.bytes += weight.bytes;
        self.settlements.push(Settlement { source, entry, decision });
        self.notes.push(Note { lane, source: source_at, suspect, counted, ran, delivery });
        self.since.get_or_insert_with(Instant::now);
        self.is_prompt |= is_prompt;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.settlements.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.writes >= MAX_WRITES || self.bytes >= MAX_BYTES
    }

    /// When the oldest decision has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + if self.is_prompt { MAX_PROMPT_WAIT } else { MAX_WAIT })
    }

    /// Whether to write now. `idle`: nothing else is coming; `alone`: nothing of the same way is on its way.
    pub(super) fn is_ready(&self, now: Instant, idle: bool, alone: bool) -> bool {
        let need_not_wait = alone && (idle || self.is_prompt);
        !self.is_empty() && (self.is_full() || need_not_wait || self.due().is_some_and(|due| now >= due))
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
