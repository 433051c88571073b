//! One handler on one thread: what it reads, what it holds, what it may run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Deployment, Heirloom};
use crate::broker::{Entry, EntryId, Source};
use crate::deploy::{InUse, Version};
use crate::stats::HandlerStats;
use crate::wasm::WarmInstance;

/// The most entries of one read; reading is cheapest at about this many.
const MAX_READ: usize = 100;
/// The most bytes that one read aims for; more would only wait in memory.
const READ_BYTES: usize = 128 << 10;
/// The work that is fetched ahead, measured in time: what waits here, no other worker can take.
const READ_AHEAD: Duration = Duration::from_millis(20);

/// What a source is doing.
#[derive(Debug)]
pub(super) enum ReadState {
    /// May be read.
    Ready,
    /// A request is under way.
    Busy,
    /// Had nothing to read; waits to be woken.
    Idle,
    /// Failed; not before this time again.
    Paused(Instant),
}

/// One stream of a lane.
pub(super) struct LaneSource {
    pub(super) source: Arc<Source>,
    /// Entries are redriven dead letters: their original stands inside.
    pub(super) is_inbox: bool,
    pub(super) state: ReadState,
    /// When parked entries may be due. `None` if none is known of.
    pub(super) due_at: Option<Instant>,
    /// The answer to a read or claim was lost: entries may be pending under this consumer that nobody here knows of.
    pub(super) lost: bool,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Consumers whose entries are to be taken.
    pub(super) heirlooms: VecDeque<Heirloom>,
}

/// An entry that waits for its turn.
pub(super) struct Ready {
    pub(super) source: usize,
    pub(super) entry: Entry,
    /// It may be what killed a worker.
    pub(super) suspect: bool,
    /// The handler has handled its event before.
    pub(super) duplicate: bool,
}

/// A handler on a thread.
pub(super) struct Lane {
    pub(super) deployment: Arc<Deployment>,
    /// The versions that deliveries begin with.
    pub(super) version: InUse,
    pub(super) stats: Arc<HandlerStats>,
    pub(super) sources: Vec<LaneSource>,
    pub(super) ready: VecDeque<Ready>,
    /// Instances of those versions between two deliveries.
    pub(super) warm: Vec<(Arc<Version>, WarmInstance)>,
    /// Deliveries begun and not finished.
    pub(super) running: usize,
    /// The most deliveries that may be running on this thread. At least 1.
    pub(super) share: usize,
    /// Deliveries finished and not settled.
    pub(super) unsettled: usize,
    /// Suspects read and not settled.
    pub(super) suspects: usize,
    /// Claims on their way, but for those of what was lost.
    pub(super) claims: usize,
    /// One of them is for entries of a dead worker.
    pub(super) inheriting: bool,
    /// Nothing of it is begun any more; what runs is finished.
    pub(super) paused: bool,
    /// Decisions that the broker refuses to write: nothing else is done until it does.
    pub(super) held: usize,
    mean_bytes: f64,
    mean_nanos: f64,
}

impl LaneSource {
    /// Whether it may be asked for something now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        match self.state {
            ReadState::Ready => true,
            ReadState::Paused(until) => now >= until,
            ReadState::Busy | ReadState::Idle => false,
        }
    }
}

impl Lane {
    pub(super) fn new(deployment: Arc<Deployment>, stats: Arc<HandlerStats>, share: usize, paused: bool) -> Lane {
        let now = Instant::now();
        let sources = deployment
            .sources
            .iter()
            .map(|source| LaneSource {
                source: source.source.clone(),
                is_inbox: source.is_inbox,
                state: ReadState::Ready,
                due_at: Some(now),
                lost: false,
                failures: 0,
                heirlooms: VecDeque::new(),
            })
            .collect();
        let version = deployment.slot.hold(&stats);
        Lane {
            deployment,
            version,
            stats,
            sources,
            ready: VecDeque::new(),
            warm: Vec::new(),
            running: 0,
            share,
            unsettled: 0,
            suspects: 0,
            claims: 0,
            inheriting: false,
            paused,
            held: 0,
            mean_bytes: 1024.0,
            mean_nanos: 1e6,
        }
    }

    /// Begins with the versions that are in use now. Instances of others are dropped.
    pub(super) fn refresh(&mut self) {
        if self.version.refresh(&self.deployment.slot, &self.stats) {
            self.warm.retain(|(version, _)| self.version.has(version));
        }
    }

    /// An instance of this version for one more delivery, if there is one. What would be too much beside that delivery is
    /// dropped: instances that wait and those that run are never more than may run.
    pub(super) fn take_warm(&mut self, version: &Arc<Version>) -> Option<WarmInstance> {
        let at = self.warm.iter().rposition(|(of, _)| Arc::ptr_eq(of, version));
        if at.is_none() && self.warm.len() + self.running >= self.share && !self.warm.is_empty() {
            self.warm.swap_remove(0);
        }
        at.map(|at| self.warm.swap_remove(at).1)
    }

    /// Whether a delivery can be started.
    pub(super) fn can_run(&self) -> bool {
        !self.ready.is_empty() && self.running < self.share && self.held == 0 && !self.paused
    }

    /// Everything that was read has been settled.
    pub(super) fn is_quiet(&self) -> bool {
        self.ready.is_empty() && self.is_drained()
    }

    /// Everything that was begun has been settled.
    fn is_drained(&self) -> bool {
        self.running == 0 && self.unsettled == 0 && self.held == 0
    }

    /// The thread may leave: what a paused lane has read and not begun is for others, when it goes on.
    pub(super) fn may_leave(&self) -> bool {
        if self.paused { self.is_drained() } else { self.is_quiet() }
    }

    /// Whether something was lost that has to be found before anything else is asked for.
    pub(super) fn is_searching(&self) -> bool {
        self.sources.iter().any(|source| source.lost)
    }

    /// Whether nothing is in memory, or on its way there by a claim: then what is pending under this consumer was lost.
    pub(super) fn may_search(&self) -> bool {
        self.is_quiet() && self.claims == 0
    }

    /// When something can be asked for that must not be asked for yet; `None` if that depends on something else.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let searching = self.is_searching();
        if self.appetite() == 0 || (searching && !self.may_search()) {
            return None;
        }
        let timer = |source: &LaneSource| {
            let paused = if let ReadState::Paused(until) = source.state { Some(until) } else { None };
            match searching {
                true => paused.filter(|_| source.lost),
                false => [paused, source.due_at].into_iter().flatten().min(),
            }
        };
        self.sources.iter().filter_map(timer).min()
    }

    /// How many entries to ask for now; 0 while there are enough, and while one is at work that may kill the worker: it
    /// must not take others along.
    pub(super) fn appetite(&self) -> usize {
        let by_bytes = (READ_BYTES as f64 / self.mean_bytes) as usize;
        let by_time = (READ_AHEAD.as_nanos() as f64 / self.mean_nanos) as usize;
        let target = by_bytes.min(by_time.max(self.share)).clamp(1, MAX_READ);
        let may_ask = self.held == 0 && self.suspects == 0 && !self.paused;
        if may_ask && self.ready.len() <= target / 2 { target } else { 0 }
    }

    pub(super) fn saw_bytes(&mut self, bytes: usize) {
        self.mean_bytes += (bytes.max(1) as f64 - self.mean_bytes) / 16.0;
    }

    pub(super) fn saw_duration(&mut self, duration: Duration) {
        self.mean_nanos += (duration.as_nanos().max(1) as f64 - self.mean_nanos) / 16.0;
    }

    /// Takes entries in; `claimed` ones that were handed out before are suspects. `known` have been handled before.
    pub(super) fn take_in(&mut self, source: usize, entries: Vec<Entry>, known: &[EntryId], claimed_from_dead: bool) {
        for entry in entries {
            let duplicate = known.contains(&entry.id);
            let suspect = claimed_from_dead && entry.attempt > 2;
            self.suspects += usize::from(suspect);
            self.ready.push_back(Ready { source, entry, suspect, duplicate });
        }
    }
}
