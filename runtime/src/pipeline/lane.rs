//! One handler on one thread: what it reads, what it holds, what it may run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::run::Delivery;
use super::runs::Runs;
use super::turns::Turns;
use super::{Deployment, Heirloom};
use crate::broker::{Entry, EntryId, Source};
use crate::deploy::{InUse, Version};
use crate::stats::HandlerStats;
use crate::wasm::WarmInstance;

/// The most entries of one read; reading is cheapest at about this many.
const MAX_READ: usize = 100;
/// The most bytes that one read aims for; more would only wait in memory.
const READ_BYTES: usize = 128 << 10;
/// What an entry is taken to have, in bytes, before any is known: the first reads are small.
const FIRST_BYTES: f64 = 16_384.0;
/// Entries that wait in a lane which is not behind.
const FEW_READY: usize = 8;
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
    pub(super) state: ReadState,
    /// When parked entries may be due. `None` if none is known of.
    pub(super) due_at: Option<Instant>,
    /// The answer to a read or claim was lost: entries may be pending under this consumer that nobody here knows of.
    pub(super) lost: bool,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Consumers whose entries are to be taken.
    pub(super) heirlooms: VecDeque<Heirloom>,
    /// Entries read and not settled.
    pub(super) open: usize,
    /// Claims on their way.
    pub(super) claims: usize,
    /// Whether it is still read.
    pub(super) standing: Standing,
    /// By what the rest of it is handled, if it is not read any more.
    under: Option<Arc<Deployment>>,
}

/// Whether a source is still read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is.
    Member,
    /// Nothing more is asked for; what was read is finished.
    Leaving,
    /// All of that is done: its place may be taken by another one.
    Gone,
}

/// An entry that waits for its turn.
pub(super) struct Ready {
    /// Its size.
    pub(super) bytes: usize,
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
    /// The number of its tenant on this thread.
    pub(super) tenant: usize,
    /// On which its decisions are written.
    pub(super) way: usize,
    /// The versions that deliveries begin with.
    pub(super) version: InUse,
    pub(super) stats: Arc<HandlerStats>,
    pub(super) sources: Vec<LaneSource>,
    pub(super) ready: VecDeque<Ready>,
    /// Deliveries whose turn has come, or that are to be run again.
    pub(super) again: VecDeque<Box<Delivery>>,
    /// Who waits for others that are about the same state.
    pub(super) turns: Turns<Box<Delivery>>,
    /// Deliveries that are to be run again after a pause.
    pub(super) pausing: usize,
    /// Instances of those versions between two deliveries.
    pub(super) warm: Vec<(Arc<Version>, WarmInstance)>,
    /// Deliveries begun and not finished.
    pub(super) running: usize,
    /// Those of them that wait for something.
    pub(super) runs: Runs,
    /// It was a delivery's turn that had been begun before; the next one is a new one's.
    pub(super) went_on: bool,
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
    /// The handler is not served on this thread any more.
    pub(super) leaving: bool,
    /// Nor on any other thread of this worker: nobody says any more whether it is paused.
    pub(super) removed: bool,
    /// Decisions that the broker refuses to write: nothing else is done until it does.
    pub(super) held: usize,
    /// The last decision cost Redis much: so may the next one, which waits for room among the like.
    pub(super) is_heavy: bool,
    mean_bytes: f64,
    mean_nanos: f64,
}

impl LaneSource {
    /// `has_left`: entries of an earlier time may be pending under this consumer.
    fn new(source: &Arc<Source>, now: Instant, has_left: bool) -> LaneSource {
        LaneSource {
            source: source.clone(),
            state: ReadState::Ready,
            due_at: has_left.then_some(now),
            lost: has_left,
            failures: 0,
            heirlooms: VecDeque::new(),
            open: 0,
            claims: 0,
            standing: Standing::Member,
            under: None,
        }
    }

    /// Asks for nothing more, but for what was lost.
    fn leave(&mut self, under: &Arc<Deployment>) {
        if self.standing == Standing::Member {
            self.standing = Standing::Leaving;
            self.under = Some(under.clone());
            self.due_at = None;
            self.heirlooms.clear();
        }
    }

    /// Lets go of everything: it has finished.
    pub(super) fn end(&mut self) {
        self.standing = Standing::Gone;
        self.under = None;
    }

    /// Whether it is leaving and nothing of it is left to do.
    pub(super) fn has_finished(&self) -> bool {
        let is_asking = matches!(self.state, ReadState::Busy) || self.claims > 0 || self.lost;
        self.standing == Standing::Leaving && self.open == 0 && !is_asking
    }

    /// Whether new entries may be asked for now.
    pub(super) fn may_read(&self, now: Instant) -> bool {
        self.standing == Standing::Member && self.is_ready(now)
    }

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
    /// A lane that reads nothing yet: see [`Lane::renew`].
    pub(super) fn new(
        deployment: Arc<Deployment>,
        stats: Arc<HandlerStats>,
        paused: bool,
        (tenant, way): (usize, usize),
        runs: Runs,
    ) -> Lane {
        let version = deployment.slot.hold(&stats);
        Lane {
            deployment,
            tenant,
            way,
            version,
            stats,
            sources: Vec::new(),
            ready: VecDeque::new(),
            again: VecDeque::new(),
            turns: Turns::default(),
            pausing: 0,
            warm: Vec::new(),
            running: 0,
            runs,
            went_on: false,
            share: 0,
            unsettled: 0,
            suspects: 0,
            claims: 0,
            inheriting: false,
            paused,
            leaving: false,
            removed: false,
            held: 0,
            is_heavy: false,
            mean_bytes: FIRST_BYTES,
            mean_nanos: 1e6,
        }
    }

    /// Goes on as the deployment says. What was read and not begun is handled in the new way; sources that it does not name
    /// any more are left, and what was read of them is handled as before. `has_left` says of which ones there may be entries
    /// of an earlier time.
    pub(super) fn renew(
        &mut self,
        deployment: Arc<Deployment>,
        stats: Arc<HandlerStats>,
        share: usize,
        has_left: impl Fn(&Source) -> bool,
    ) {
        if !Arc::ptr_eq(&deployment.slot, &self.deployment.slot) {
            self.version = deployment.slot.hold(&stats);
            self.warm.clear();
        }
        if self.held > 0 {
            self.stats.blocked.fetch_sub(1, Ordering::Relaxed);
            stats.blocked.fetch_add(1, Ordering::Relaxed);
        }
        let now = Instant::now();
        let is_named = |source: &LaneSource| deployment.sources.contains(&source.source);
        let left = self.sources.iter_mut().filter(|source| !is_named(source));
        left.for_each(|source| source.leave(&self.deployment));
        for named in &deployment.sources {
            let known = self.sources.iter_mut().find(|source| source.source == *named);
            match known {
                Some(known) if known.standing == Standing::Member => {}
                Some(known) if known.standing == Standing::Leaving => {
                    known.standing = Standing::Member;
                    known.under = None;
                    known.due_at = Some(now);
                }
                Some(gone) => *gone = LaneSource::new(named, now, has_left(named)),
                None => {
                    let source = LaneSource::new(named, now, has_left(named));
                    // Requests and tickets name sources by their places: only those of the gone may be taken.
                    match self.sources.iter_mut().find(|source| source.standing == Standing::Gone) {
                        Some(gone) => *gone = source,
                        None => self.sources.push(source),
                    }
                }
            }
        }
        (self.deployment, self.stats, self.share) = (deployment, stats, share);
        (self.leaving, self.removed) = (false, false);
    }

    /// Reads nothing more; what was read is finished.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.sources.iter_mut().for_each(|source| source.leave(&self.deployment));
    }

    /// Lets go of what was read and not begun, or is to be looked for: it stays pending. Says of which sources, and the
    /// sizes of what had never been begun.
    pub(super) fn abandon(&mut self) -> (Vec<Arc<Source>>, Vec<usize>) {
        let (mut abandoned, mut sizes) = (Vec::new(), Vec::new());
        for ready in self.ready.drain(..) {
            sizes.push(ready.bytes);
            self.suspects -= usize::from(ready.suspect);
            let source = &mut self.sources[ready.source];
            source.open -= 1;
            abandoned.push(source.source.clone());
        }
        let waiting: Vec<_> = self.again.drain(..).chain(self.turns.clear()).collect();
        for delivery in waiting {
            let ticket = delivery.ticket();
            self.suspects -= usize::from(ticket.suspect);
            self.sources[ticket.source_at].open -= 1;
            abandoned.push(ticket.source.clone());
            sizes.extend(delivery.ahead);
            // What still runs may lose its turn by this, and have another one beside it: that costs a run at the worst.
            self.pass_on(&delivery);
        }
        for source in self.sources.iter_mut().filter(|source| source.lost) {
            source.lost = false;
            abandoned.push(source.source.clone());
        }
        (abandoned, sizes)
    }

    /// Nothing is left to do, and nothing more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.leaving && self.sources.iter().all(|source| source.standing == Standing::Gone) && self.is_quiet()
    }

    /// What holds for the entries of a source.
    pub(super) fn deployment_of(&self, source: usize) -> &Arc<Deployment> {
        self.sources[source].under.as_ref().unwrap_or(&self.deployment)
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

    /// Whether a delivery can be begun.
    pub(super) fn can_begin(&self) -> bool {
        let has_some = !self.ready.is_empty() || !self.again.is_empty();
        has_some && self.running < self.share && self.held == 0 && !self.paused
    }

    /// Whether little waits here.
    pub(super) fn has_little_to_do(&self) -> bool {
        self.ready.len() < FEW_READY
    }

    /// Whether its decisions may overtake each other: if it is the one that runs its deliveries one by one, they are
    /// written in that order.
    pub(super) fn may_overtake(&self) -> bool {
        self.deployment.concurrency > 1
    }

    /// Whether it can use the thread.
    pub(super) fn can_run(&self) -> bool {
        self.runs.can_go_on() || self.can_begin()
    }

    /// The delivery, if it is its turn; else it waits for those before it that are about the same state.
    pub(super) fn in_turn(&mut self, delivery: Box<Delivery>) -> Option<Box<Delivery>> {
        match delivery.turns.first().cloned() {
            Some(turn) => self.turns.take(&turn, delivery),
            None => Some(delivery),
        }
    }

    /// The delivery is over: others may have its turns.
    pub(super) fn pass_on(&mut self, delivery: &Delivery) {
        for turn in &delivery.turns {
            self.again.extend(self.turns.pass(turn));
        }
    }

    /// Entries that were read and are not begun, or have to be begun again.
    fn waiting(&self) -> usize {
        self.ready.len() + self.again.len() + self.turns.waiting() + self.pausing
    }

    /// Everything that was read has been settled.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting() == 0 && self.is_drained()
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
                false if source.standing != Standing::Member => None,
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
        if may_ask && self.waiting() <= target / 2 { target } else { 0 }
    }

    fn saw_bytes(&mut self, bytes: usize) {
        self.mean_bytes += (bytes.max(1) as f64 - self.mean_bytes) / 16.0;
    }

    pub(super) fn saw_duration(&mut self, duration: Duration) {
        self.mean_nanos += (duration.as_nanos().max(1) as f64 - self.mean_nanos) / 16.0;
    }

    /// Takes entries in; `claimed` ones that were handed out before are suspects. `known` have been handled before.
    pub(super) fn take_in(&mut self, source: usize, entries: Vec<Entry>, known: &[EntryId], claimed_from_dead: bool) {
        for entry in entries {
            let bytes = entry.bytes();
            self.saw_bytes(bytes);
            let duplicate = known.contains(&entry.id);
            let suspect = claimed_from_dead && entry.attempt > 2;
            self.suspects += usize::from(suspect);
            self.sources[source].open += 1;
            self.ready.push_back(Ready { bytes, source, entry, suspect, duplicate });
        }
    }
}
