//! What a thread asks of the broker, and what it makes of the answers.

use std::time::{Duration, Instant};

use super::super::batch::SettleDone;
use super::super::lane::{ReadState, Standing};
use super::super::run::Delivery;
use super::super::{Heirloom, dedup};
use super::Shard;
use super::agenda::Agenda;
use super::tenants::{Tenant, a_little_later};
use crate::broker::{BrokerError, Claimed, Entry, EntryId, Refusal, Source};

/// The first pause after a failed request; doubles up to [`MAX_PAUSE`], with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// When due entries are asked for again after that failed.
const DUE_AGAIN: Duration = Duration::from_secs(5);

/// A stream that had fewer entries than this, and than asked for, is not asked again before it has something new: where
/// events come one by one, every other read would be in vain.
const FEW: usize = 2;

/// What a request to the broker came to.
pub(super) enum IoDone {
    Read {
        lane: usize,
        source: usize,
        /// How many entries were asked for.
        asked: usize,
        /// Those that the handler has handled before.
        known: Vec<EntryId>,
        result: Result<Vec<Entry>, BrokerError>,
    },
    Due {
        lane: usize,
        source: usize,
        asked: usize,
        result: Result<Claimed, BrokerError>,
    },
    Heirlooms {
        lane: usize,
        source: usize,
        asked: usize,
        from: Heirloom,
        result: Result<Claimed, BrokerError>,
    },
    /// What was pending under this very consumer.
    Found {
        lane: usize,
        source: usize,
        asked: usize,
        result: Result<Claimed, BrokerError>,
    },
    Group {
        lane: usize,
        source: usize,
        result: Result<bool, BrokerError>,
    },
    /// The pause of a delivery that is to be run again is over.
    Again {
        lane: usize,
        delivery: Box<Delivery>,
    },
    /// A batch, on its way.
    Settled {
        way: usize,
        done: SettleDone,
    },
    /// A consumer that is not needed any more has been removed.
    Left,
}

impl IoDone {
    /// The lane that it is about, if it is about one.
    fn lane(&self) -> Option<usize> {
        match self {
            IoDone::Read { lane, .. }
            | IoDone::Due { lane, .. }
            | IoDone::Heirlooms { lane, .. }
            | IoDone::Found { lane, .. }
            | IoDone::Group { lane, .. }
            | IoDone::Again { lane, .. } => Some(*lane),
            IoDone::Settled { .. } | IoDone::Left => None,
        }
    }

    /// Of a request for entries: its lane, how many it asked for, and those that have come.
    fn asked(&self) -> Option<(usize, usize, &[Entry])> {
        match self {
            IoDone::Read { lane, asked, result, .. } => {
                Some((*lane, *asked, result.as_ref().map_or(&[], Vec::as_slice)))
            }
            IoDone::Due { lane, asked, result, .. }
            | IoDone::Heirlooms { lane, asked, result, .. }
            | IoDone::Found { lane, asked, result, .. } => {
                Some((*lane, *asked, result.as_ref().map_or(&[], |claimed| claimed.entries.as_slice())))
            }
            IoDone::Group { .. } | IoDone::Settled { .. } | IoDone::Again { .. } | IoDone::Left => None,
        }
    }
}

/// How many entries a lane may ask for; none if it has to wait, and is told when it may ask again.
fn ask(tenant: &mut Tenant, agenda: &mut Agenda, lane: (usize, bool), count: usize, now: Instant) -> Option<usize> {
    match tenant.ask(lane, count, now) {
        Ok(asked) => Some(asked),
        Err(until) => {
            until.into_iter().for_each(|until| agenda.list_at(lane.0, a_little_later(until)));
            None
        }
    }
}

impl Shard {
    /// Starts reading what is new. Says whether all was asked for that is called for, or the lane is told when to ask again.
    pub(super) fn start_reads(&mut self, lane_at: usize, now: Instant) -> bool {
        let Shard { lanes, tenants, agenda, io, reads, .. } = self;
        let lane = &mut lanes[lane_at];
        let (who, count) = ((lane_at, lane.ready.is_empty()), lane.appetite());
        if count == 0 {
            return true;
        }
        let broker = self.ways.broker(lane.way);
        for (at, source) in lane.sources.iter_mut().enumerate().filter(|(_, source)| source.may_read(now)) {
            let Some(asked) = ask(&mut tenants[lane.tenant], agenda, who, count, now) else { return false };
            source.state = ReadState::Busy;
            let (broker, consumer, stream) = (broker.clone(), self.consumer.clone(), source.source.clone());
            let deployment = lane.deployment.clone();
            *reads += 1;
            io.push(Box::pin(async move {
                let result = broker.read(&stream, &consumer, asked).await;
                let known = match &result {
                    Ok(entries) => dedup::known(&*broker, &deployment, &stream, entries).await,
                    Err(_) => Vec::new(),
                };
                IoDone::Read { lane: lane_at, source: at, asked, known, result }
            }));
        }
        true
    }

    /// Starts looking for what was lost: what is pending under this consumer while nothing of it is in memory. Says the same
    /// as [`Shard::start_reads`].
    pub(super) fn start_search(&mut self, lane_at: usize, now: Instant) -> bool {
        let Shard { lanes, tenants, agenda, io, .. } = self;
        let lane = &mut lanes[lane_at];
        let (who, count) = ((lane_at, lane.ready.is_empty()), lane.appetite());
        if count == 0 || !lane.may_search() {
            return true;
        }
        let broker = self.ways.broker(lane.way);
        let lost = lane.sources.iter_mut().enumerate().filter(|(_, source)| source.lost && source.is_ready(now));
        for (at, source) in lost {
            let Some(asked) = ask(&mut tenants[lane.tenant], agenda, who, count, now) else { return false };
            source.state = ReadState::Busy;
            let (broker, consumer, stream) = (broker.clone(), self.consumer.clone(), source.source.clone());
            io.push(Box::pin(async move {
                let result = broker.claim_from(&stream, &consumer, &consumer, None, asked).await;
                IoDone::Found { lane: lane_at, source: at, asked, result }
            }));
        }
        true
    }

    /// Starts taking parked entries that are due, and entries of dead workers. Says the same as [`Shard::start_reads`].
    pub(super) fn start_claims(&mut self, lane_at: usize, now: Instant) -> bool {
        let Shard { lanes, tenants, agenda, io, .. } = self;
        let lane = &mut lanes[lane_at];
        let (who, count) = ((lane_at, lane.ready.is_empty()), lane.appetite());
        if count == 0 {
            return true;
        }
        let broker = self.ways.broker(lane.way);
        let members = lane.sources.iter_mut().enumerate().filter(|(_, source)| source.standing == Standing::Member);
        for (at, source) in members {
            let (broker, consumer, stream) = (broker.clone(), self.consumer.clone(), source.source.clone());
            if source.due_at.is_some_and(|due| now >= due) {
                let Some(asked) = ask(&mut tenants[lane.tenant], agenda, who, count, now) else { return false };
                source.due_at = None;
                source.claims += 1;
                lane.claims += 1;
                let (broker, consumer, stream) = (broker.clone(), consumer.clone(), stream.clone());
                io.push(Box::pin(async move {
                    let result = broker.claim_due(&stream, &consumer, asked).await;
                    IoDone::Due { lane: lane_at, source: at, asked, result }
                }));
            }
            // One at a time: two could bring a suspect each.
            if !lane.inheriting && !source.heirlooms.is_empty() {
                let Some(asked) = ask(&mut tenants[lane.tenant], agenda, who, count, now) else { return false };
                let Some(from) = source.heirlooms.pop_front() else { continue };
                lane.inheriting = true;
                source.claims += 1;
                lane.claims += 1;
                io.push(Box::pin(async move {
                    let result = broker.claim_from(&stream, &consumer, &from.consumer, from.min_idle, asked).await;
                    IoDone::Heirlooms { lane: lane_at, source: at, asked, from, result }
                }));
            }
        }
        true
    }

    /// Takes in the result of a request.
    pub(super) fn apply(&mut self, done: IoDone) {
        if let Some(lane) = done.lane() {
            self.agenda.list(lane);
        }
        if let Some((lane, asked, entries)) = done.asked() {
            let tenant = &mut self.tenants[self.lanes[lane].tenant];
            let hungry = tenant.answered(asked, entries.iter().map(Entry::bytes));
            hungry.into_iter().for_each(|lane| self.agenda.list(lane));
        }
        if matches!(done, IoDone::Read { .. }) {
            self.reads -= 1;
            self.answered = Instant::now();
        }
        match done {
            IoDone::Read { lane, source, asked, known, result: Ok(entries) } => {
                self.has_read(lane, source, asked, entries, &known);
            }
            IoDone::Read { lane, source, result: Err(error), .. } => {
                // A refusal is an answer: nothing was handed out.
                self.lanes[lane].sources[source].lost |= !matches!(error, BrokerError::Refused { .. });
                self.failed(lane, source, error);
            }
            IoDone::Due { lane: lane_at, source, result, .. } => {
                let lane = &mut self.lanes[lane_at];
                lane.claims -= 1;
                lane.sources[source].claims -= 1;
                // If none is parked, nothing is asked for before one is.
                let next = match &result {
                    Ok(claimed) if claimed.more => Some(Duration::ZERO),
                    Ok(claimed) => claimed.next_due,
                    Err(_) => Some(DUE_AGAIN),
                };
                // What was parked while the request was under way may be due earlier.
                let due = &mut lane.sources[source].due_at;
                *due = next.map(|next| Instant::now() + next).into_iter().chain(*due).min();
                match result {
                    Ok(claimed) => self.accept_claimed(lane_at, source, claimed, false),
                    Err(error) => self.failed_claim(lane_at, source, error),
                }
            }
            IoDone::Heirlooms { lane: lane_at, source, from, result, .. } => {
                let lane = &mut self.lanes[lane_at];
                lane.claims -= 1;
                lane.sources[source].claims -= 1;
                lane.inheriting = false;
                match result {
                    Ok(claimed) => {
                        if from.min_idle.is_some() && !claimed.entries.is_empty() {
                            tracing::info!(
                                handler = lane.deployment.id(),
                                stream = lane.sources[source].source.stream,
                                consumer = from.consumer,
                                count = claimed.entries.len(),
                                "taking over events that have been idle under another program"
                            );
                        }
                        if claimed.more {
                            lane.sources[source].heirlooms.push_back(from);
                        }
                        self.accept_claimed(lane_at, source, claimed, true);
                    }
                    Err(error) => self.failed_claim(lane_at, source, error),
                }
            }
            IoDone::Found { lane, source, result: Ok(claimed), .. } => {
                let state = &mut self.lanes[lane].sources[source];
                state.state = ReadState::Ready;
                state.lost = claimed.more;
                state.failures = 0;
                self.accept_claimed(lane, source, claimed, true);
            }
            IoDone::Found { lane, source, result: Err(error), .. } => self.failed(lane, source, error),
            IoDone::Group { lane, source, result: Ok(_) } => {
                self.lanes[lane].sources[source].state = ReadState::Ready;
            }
            IoDone::Group { lane, source, result: Err(error) } => self.failed(lane, source, error),
            IoDone::Settled { way, done } => self.settled(way, done),
            IoDone::Again { lane: lane_at, delivery } => {
                let lane = &mut self.lanes[lane_at];
                lane.pausing -= 1;
                lane.again.push_back(delivery);
                self.schedule.activate(lane_at);
            }
            IoDone::Left => {}
        }
    }

    /// The stream has something new. If it cannot be read now, it is for another thread.
    pub(super) fn wake(&mut self, source: &Source) {
        let mut can_read = false;
        for &at in self.readers.get(&source.key).into_iter().flatten() {
            let Some(lane) = self.lanes.get_mut(at) else { continue };
            let reads = !lane.is_searching() && lane.appetite() > 0 && self.drain_until.is_none();
            for known in lane.sources.iter_mut().filter(|known| *known.source == *source) {
                if matches!(known.state, ReadState::Idle) {
                    known.state = ReadState::Ready;
                }
                can_read |= reads && known.standing == Standing::Member && matches!(known.state, ReadState::Ready);
            }
            self.agenda.list(at);
        }
        if !can_read {
            self.watch.pass_on(source);
        }
    }

    fn has_read(&mut self, lane: usize, source: usize, asked: usize, entries: Vec<Entry>, known: &[EntryId]) {
        let state = &mut self.lanes[lane].sources[source];
        state.failures = 0;
        state.state = ReadState::Ready;
        if entries.len() >= asked {
            // There may be more than this thread can take.
            self.watch.pass_on(&state.source);
        } else if entries.len() < FEW && !state.lost {
            // What was lost meanwhile is looked for before waiting for more.
            state.state = ReadState::Idle;
            self.watch.register(&state.source, entries.last().map(|entry| entry.id), &self.thread);
        }
        self.accept(lane, source, entries, known, false);
    }

    fn accept_claimed(&mut self, lane: usize, source: usize, claimed: Claimed, from_dead: bool) {
        if claimed.trimmed > 0 {
            let state = &self.lanes[lane];
            state.stats.trimmed.add(claimed.trimmed as u64);
            let (handler, stream) = (state.deployment.id(), &state.sources[source].source.stream);
            tracing::warn!(handler, stream, count = claimed.trimmed, "pending events had been trimmed from the stream");
        }
        self.accept(lane, source, claimed.entries, &[], from_dead);
    }

    fn accept(&mut self, lane: usize, source: usize, entries: Vec<Entry>, known: &[EntryId], from_dead: bool) {
        if entries.is_empty() {
            return;
        }
        self.lanes[lane].take_in(source, entries, known, from_dead);
        self.schedule.activate(lane);
    }

    /// A read failed: the group is made again, or the source pauses.
    fn failed(&mut self, lane_at: usize, source_at: usize, error: BrokerError) {
        let lane = &mut self.lanes[lane_at];
        let handler = lane.deployment.id().to_owned();
        let source = &mut lane.sources[source_at];
        if let BrokerError::NoGroup { .. } = error {
            tracing::error!(
                alarm = "group_lost",
                handler,
                stream = source.source.stream,
                "the consumer group is gone (deleted, or the server was flushed); it is created again at the beginning"
            );
            source.lost = false;
            source.state = ReadState::Busy;
            let (broker, stream) = (self.ways.broker(lane.way).clone(), source.source.clone());
            self.io.push(Box::pin(async move {
                let result = broker.create_group(&stream).await;
                IoDone::Group { lane: lane_at, source: source_at, result }
            }));
            return;
        }
        source.failures = source.failures.saturating_add(1);
        let pause = backoff(source.failures);
        if source.failures.is_power_of_two() {
            let stream = &source.source.stream;
            match &error {
                BrokerError::Refused { refusal: Refusal::NotAuthenticated | Refusal::NoPermission, .. } => {
                    tracing::error!(alarm = "read_refused", handler, stream, ?pause, "cannot read: {error}");
                }
                _ => tracing::warn!(handler, stream, ?pause, "cannot read: {error}"),
            }
        }
        source.state = ReadState::Paused(Instant::now() + pause);
    }

    /// A claim failed: it is made again later. Its answer may have been lost, or it was refused after some entries had
    /// been handed over, so own pending entries are looked for.
    fn failed_claim(&mut self, lane: usize, source: usize, error: BrokerError) {
        let state = &mut self.lanes[lane].sources[source];
        state.lost |= !matches!(error, BrokerError::NoGroup { .. });
        if state.lost && matches!(state.state, ReadState::Idle) {
            state.state = ReadState::Ready;
        }
        tracing::debug!(stream = state.source.stream, "cannot claim: {error}");
    }
}

/// The pause after so many failures in a row, with full jitter above a quarter.
pub(in crate::pipeline) fn backoff(failures: u32) -> Duration {
    let bound = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_PAUSE);
    bound.mul_f64(0.25 + 0.75 * rand::random::<f64>())
}
