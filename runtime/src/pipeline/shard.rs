//! One thread of the pipeline: it reads, runs and settles for its share of every handler, with connections of its own.
//!
//! The loop only names what happened; [`Shard::apply`] and its helpers decide, and never wait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;

use super::batch::{Batch, Note, SettleDone, settle_until_written};
use super::lane::{Lane, ReadState};
use super::run::{Finished, Prepared};
use super::watch::Watch;
use super::{Command, LEAVE_TIME, MAX_SETTLES, Worker};
use crate::broker::{Broker, BrokerError, Claimed, Entry, Settled};
use crate::outcome::{Decision, Settlement};
use crate::schedule::Schedule;

/// Deliveries that are run before input and output get a turn.
const RUNS_PER_TURN: usize = 16;
/// The first pause after a failed request; doubles up to [`MAX_PAUSE`], with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How often parked entries are looked for that another worker has parked.
const DUE_POLL: Duration = Duration::from_secs(5);
/// How often writes that the broker refused are tried again.
const HELD_PAUSE: Duration = Duration::from_secs(1);

/// What a request to the broker came to.
enum IoDone {
    Read {
        lane: usize,
        source: usize,
        result: Result<Vec<Entry>, BrokerError>,
    },
    Due {
        lane: usize,
        source: usize,
        result: Result<Claimed, BrokerError>,
    },
    Heirlooms {
        lane: usize,
        source: usize,
        from: String,
        result: Result<Claimed, BrokerError>,
    },
    /// What was pending under this very consumer.
    Found {
        lane: usize,
        source: usize,
        result: Result<Claimed, BrokerError>,
    },
    Group {
        lane: usize,
        source: usize,
        result: Result<bool, BrokerError>,
    },
    Settled(SettleDone),
}

type Run = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// The state of the thread.
pub(super) struct Shard {
    worker: Arc<Worker>,
    broker: Arc<dyn Broker>,
    consumer: Arc<str>,
    lanes: Vec<Lane>,
    schedule: Schedule,
    running: FuturesUnordered<Run>,
    max_running: usize,
    io: FuturesUnordered<BoxFuture<'static, IoDone>>,
    batch: Batch,
    /// Batches on their way, without those that only repeat what was refused.
    settles: usize,
    commands: mpsc::UnboundedReceiver<Command>,
    own_commands: mpsc::UnboundedSender<Command>,
    watch: Arc<Watch>,
    /// When to give up what is not finished; set when draining began.
    drain_until: Option<Instant>,
}

impl Shard {
    #[expect(clippy::too_many_arguments, reason = "the parts of a thread, named once, where it is made")]
    pub(super) fn new(
        worker: Arc<Worker>,
        broker: Arc<dyn Broker>,
        consumer: Arc<str>,
        lanes: Vec<Lane>,
        max_running: usize,
        commands: mpsc::UnboundedReceiver<Command>,
        own_commands: mpsc::UnboundedSender<Command>,
        watch: Arc<Watch>,
    ) -> Shard {
        let schedule = Schedule::new(lanes.len());
        Shard {
            worker,
            broker,
            consumer,
            lanes,
            schedule,
            running: FuturesUnordered::new(),
            max_running,
            io: FuturesUnordered::new(),
            batch: Batch::default(),
            settles: 0,
            commands,
            own_commands,
            watch,
            drain_until: None,
        }
    }

    /// Works until it is told to drain and has drained.
    pub(super) async fn run(mut self) {
        loop {
            self.take_in();
            let started = self.start_io();
            let ran = self.run_some();
            if ran || started {
                // Lets the connection send and receive, then takes what has come without waiting for more.
                tokio::task::yield_now().await;
                continue;
            }
            if self.is_drained() {
                break;
            }
            self.wait().await;
        }
        // What is given up must not be in the way of leaving.
        self.io.clear();
        self.running.clear();
        if tokio::time::timeout(LEAVE_TIME, self.remove_consumers()).await.is_err() {
            tracing::debug!("consumers are left behind: the broker does not answer");
        }
    }

    /// Takes in everything that has happened, without waiting.
    fn take_in(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        while let Some(Some(done)) = self.io.next().now_or_never() {
            self.apply(done);
        }
        while let Some(Some(finished)) = self.running.next().now_or_never() {
            self.finish(finished);
        }
    }

    /// Waits for whatever happens next.
    async fn wait(&mut self) {
        let timer = self.next_timer();
        tokio::select! {
            Some(command) = self.commands.recv() => self.obey(command),
            Some(done) = self.io.next(), if !self.io.is_empty() => self.apply(done),
            Some(finished) = self.running.next(), if !self.running.is_empty() => self.finish(finished),
            () = tokio::time::sleep_until(timer.into()) => {}
        }
    }

    /// When something has to be done though nothing happens.
    fn next_timer(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + Duration::from_secs(1);
        if let Some(until) = self.drain_until {
            next = next.min(until);
        }
        // Only what can be done at that time: else the thread would wake up for nothing, again and again.
        if let Some(due) = self.batch.due().filter(|_| self.settles < MAX_SETTLES) {
            next = next.min(due);
        }
        if self.drain_until.is_none() {
            next = self.lanes.iter().filter_map(Lane::next_timer).fold(next, Instant::min);
        }
        next.max(now + Duration::from_millis(1))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Wake(key) => {
                for source in self.lanes.iter_mut().flat_map(|lane| &mut lane.sources) {
                    if source.source.key == key && matches!(source.state, ReadState::Idle) {
                        source.state = ReadState::Ready;
                    }
                }
            }
            Command::Inherit { handler, source, from } => {
                let lane = self.lanes.iter_mut().find(|lane| lane.deployment.name() == &*handler);
                if let Some(source) = lane.and_then(|lane| lane.sources.get_mut(source))
                    && !source.heirlooms.contains(&from)
                {
                    source.heirlooms.push_back(from);
                }
            }
            Command::Drain { until } => self.drain_until = Some(until),
        }
    }

    fn is_drained(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        let quiet = self.lanes.iter().all(Lane::is_quiet) && self.batch.is_empty() && self.settles == 0;
        quiet || Instant::now() >= until
    }

    /// Starts every request that is called for; says whether there was one.
    fn start_io(&mut self) -> bool {
        let before = self.io.len();
        let now = Instant::now();
        if self.drain_until.is_none() {
            for lane in 0..self.lanes.len() {
                // Whoever asks for more never finds the quiet that the search needs.
                if self.lanes[lane].is_searching() {
                    self.start_search(lane, now);
                } else {
                    self.start_claims(lane, now);
                    self.start_reads(lane, now);
                }
            }
        }
        let nothing_to_run = self.settles == 0 && !self.lanes.iter().any(Lane::can_run);
        if self.settles < MAX_SETTLES && self.batch.is_ready(now, nothing_to_run) {
            let (settlements, notes) = self.batch.take();
            self.settles += 1;
            self.start_settle(settlements, notes, None);
        }
        self.io.len() > before
    }

    fn start_settle(&mut self, settlements: Vec<Settlement>, notes: Vec<Note>, after: Option<Duration>) {
        let (broker, consumer) = (self.broker.clone(), self.consumer.clone());
        let repeated = after.is_some();
        self.io.push(Box::pin(async move {
            if let Some(pause) = after {
                tokio::time::sleep(pause).await;
            }
            IoDone::Settled(settle_until_written(&*broker, &consumer, settlements, notes, repeated).await)
        }));
    }

    fn start_reads(&mut self, lane_at: usize, now: Instant) {
        let lane = &mut self.lanes[lane_at];
        let count = lane.appetite();
        if count == 0 {
            return;
        }
        for (at, source) in lane.sources.iter_mut().enumerate().filter(|(_, source)| source.is_ready(now)) {
            source.state = ReadState::Busy;
            let (broker, consumer, stream) = (self.broker.clone(), self.consumer.clone(), source.source.clone());
            self.io.push(Box::pin(async move {
                let result = broker.read(&stream, &consumer, count).await;
                IoDone::Read { lane: lane_at, source: at, result }
            }));
        }
    }

    /// Starts looking for what was lost: what is pending under this consumer while nothing of it is in memory.
    fn start_search(&mut self, lane_at: usize, now: Instant) {
        let lane = &mut self.lanes[lane_at];
        let count = lane.appetite();
        if count == 0 || !lane.may_search() {
            return;
        }
        let lost = lane.sources.iter_mut().enumerate().filter(|(_, source)| source.lost && source.is_ready(now));
        for (at, source) in lost {
            source.state = ReadState::Busy;
            let (broker, consumer, stream) = (self.broker.clone(), self.consumer.clone(), source.source.clone());
            self.io.push(Box::pin(async move {
                let result = broker.claim_from(&stream, &consumer, &consumer, count).await;
                IoDone::Found { lane: lane_at, source: at, result }
            }));
        }
    }

    /// Starts taking parked entries that are due, and entries of dead workers.
    fn start_claims(&mut self, lane_at: usize, now: Instant) {
        let lane = &mut self.lanes[lane_at];
        let count = lane.appetite();
        if count == 0 {
            return;
        }
        for (at, source) in lane.sources.iter_mut().enumerate() {
            let (broker, consumer, stream) = (self.broker.clone(), self.consumer.clone(), source.source.clone());
            if source.due_at.is_some_and(|due| now >= due) {
                source.due_at = None;
                lane.claims += 1;
                let (broker, consumer, stream) = (broker.clone(), consumer.clone(), stream.clone());
                self.io.push(Box::pin(async move {
                    let result = broker.claim_due(&stream, &consumer, count).await;
                    IoDone::Due { lane: lane_at, source: at, result }
                }));
            }
            // One at a time: two could bring a suspect each.
            if !lane.inheriting
                && let Some(from) = source.heirlooms.pop_front()
            {
                lane.inheriting = true;
                lane.claims += 1;
                self.io.push(Box::pin(async move {
                    let result = broker.claim_from(&stream, &consumer, &from, count).await;
                    IoDone::Heirlooms { lane: lane_at, source: at, from, result }
                }));
            }
        }
    }

    /// Takes in the result of a request.
    fn apply(&mut self, done: IoDone) {
        match done {
            IoDone::Read { lane, source, result: Ok(entries) } => self.has_read(lane, source, entries),
            IoDone::Read { lane, source, result: Err(error) } => {
                // A refusal is an answer: nothing was handed out.
                self.lanes[lane].sources[source].lost |= !matches!(error, BrokerError::Refused { .. });
                self.failed(lane, source, error);
            }
            IoDone::Due { lane: lane_at, source, result } => {
                let lane = &mut self.lanes[lane_at];
                lane.claims -= 1;
                let next = match &result {
                    Ok(claimed) if claimed.more => Duration::ZERO,
                    Ok(claimed) => claimed.next_due.unwrap_or(DUE_POLL).min(DUE_POLL),
                    Err(_) => DUE_POLL,
                };
                // What was parked while the request was under way may be due earlier.
                let due = &mut lane.sources[source].due_at;
                let next = Instant::now() + next;
                *due = Some(due.map_or(next, |known| known.min(next)));
                match result {
                    Ok(claimed) => self.accept_claimed(lane_at, source, claimed, false),
                    Err(error) => self.failed_claim(lane_at, source, error),
                }
            }
            IoDone::Heirlooms { lane: lane_at, source, from, result } => {
                let lane = &mut self.lanes[lane_at];
                lane.claims -= 1;
                lane.inheriting = false;
                match result {
                    Ok(claimed) => {
                        if claimed.more {
                            lane.sources[source].heirlooms.push_back(from);
                        }
                        self.accept_claimed(lane_at, source, claimed, true);
                    }
                    Err(error) => self.failed_claim(lane_at, source, error),
                }
            }
            IoDone::Found { lane, source, result: Ok(claimed) } => {
                let state = &mut self.lanes[lane].sources[source];
                state.state = ReadState::Ready;
                state.lost = claimed.more;
                state.failures = 0;
                self.accept_claimed(lane, source, claimed, true);
            }
            IoDone::Found { lane, source, result: Err(error) } => self.failed(lane, source, error),
            IoDone::Group { lane, source, result: Ok(_) } => {
                self.lanes[lane].sources[source].state = ReadState::Ready;
            }
            IoDone::Group { lane, source, result: Err(error) } => self.failed(lane, source, error),
            IoDone::Settled(done) => self.settled(done),
        }
    }

    fn has_read(&mut self, lane: usize, source: usize, entries: Vec<Entry>) {
        let state = &mut self.lanes[lane].sources[source];
        state.failures = 0;
        if entries.is_empty() {
            // What was lost meanwhile is looked for before waiting for more.
            state.state = if state.lost { ReadState::Ready } else { ReadState::Idle };
            self.watch.register(&state.source.key, &self.own_commands);
        } else {
            state.state = ReadState::Ready;
            self.accept(lane, source, entries, false);
        }
    }

    fn accept_claimed(&mut self, lane: usize, source: usize, claimed: Claimed, from_dead: bool) {
        if claimed.trimmed > 0 {
            let state = &self.lanes[lane];
            state.stats.trimmed.add(claimed.trimmed as u64);
            let (handler, stream) = (state.deployment.name(), &state.sources[source].source.stream);
            tracing::warn!(handler, stream, count = claimed.trimmed, "pending events had been trimmed from the stream");
        }
        self.accept(lane, source, claimed.entries, from_dead);
    }

    fn accept(&mut self, lane: usize, source: usize, entries: Vec<Entry>, from_dead: bool) {
        if entries.is_empty() {
            return;
        }
        self.lanes[lane].take_in(source, entries, from_dead);
        self.schedule.activate(lane);
    }

    /// A read failed: the group is made again, or the source pauses.
    fn failed(&mut self, lane_at: usize, source_at: usize, error: BrokerError) {
        let lane = &mut self.lanes[lane_at];
        let handler = lane.deployment.name().to_owned();
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
            let (broker, stream) = (self.broker.clone(), source.source.clone());
            self.io.push(Box::pin(async move {
                let result = broker.create_group(&stream).await;
                IoDone::Group { lane: lane_at, source: source_at, result }
            }));
            return;
        }
        source.failures = source.failures.saturating_add(1);
        let pause = backoff(source.failures);
        if source.failures.is_power_of_two() {
            tracing::warn!(handler, stream = source.source.stream, ?pause, "cannot read: {error}");
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

    /// Runs some of what is ready; says whether there was any.
    fn run_some(&mut self) -> bool {
        for ran in 0..RUNS_PER_TURN {
            if self.running.len() >= self.max_running || (self.settles >= MAX_SETTLES && self.batch.is_full()) {
                return ran > 0;
            }
            let Some(lane) = self.schedule.next(|lane| self.lanes[lane].can_run()) else { return ran > 0 };
            self.run_next(lane);
        }
        true
    }

    /// Takes the lane's next entry as far as it goes without waiting.
    fn run_next(&mut self, lane_at: usize) {
        let start = Instant::now();
        let lane = &mut self.lanes[lane_at];
        let Some(ready) = lane.ready.pop_front() else { return };
        match super::run::prepare(&self.worker, lane, ready) {
            Prepared::Decided { decision, ticket } => {
                lane.unsettled += 1;
                self.batch.push(lane_at, ticket, decision);
            }
            Prepared::Delivery(delivery) => {
                lane.running += 1;
                let mut run: Run = Box::pin(super::run::run(lane_at, *delivery, lane.warm.pop()));
                // Most handlers return without waiting: then no task, timer or queue was needed.
                match (&mut run).now_or_never() {
                    Some(finished) => self.finish(finished),
                    None => self.running.push(run),
                }
            }
        }
        self.schedule.charge(lane_at, start.elapsed().as_nanos() as u64);
    }

    /// A handler is done: its decision goes into the batch.
    fn finish(&mut self, finished: Finished) {
        let lane_at = finished.lane;
        let lane = &mut self.lanes[lane_at];
        lane.running -= 1;
        lane.unsettled += 1;
        lane.saw_duration(finished.execution.wall);
        let (decision, ticket, warm) = super::run::conclude(&self.worker, lane, finished);
        lane.warm.extend(warm);
        self.batch.push(lane_at, ticket, decision);
        if lane.can_run() {
            self.schedule.activate(lane_at);
        }
    }

    /// A batch has been answered.
    fn settled(&mut self, done: SettleDone) {
        if !done.repeated {
            self.settles -= 1;
        }
        let mut refused: Vec<(Settlement, Note)> = Vec::new();
        for ((settlement, note), settled) in done.settlements.into_iter().zip(done.notes).zip(done.results) {
            let lane = &mut self.lanes[note.lane];
            match settled {
                Settled::Refused(why) => {
                    if lane.held == 0 {
                        let handler = lane.deployment.name();
                        tracing::error!(alarm = "settle_refused", handler, "Redis refuses what the handler did: {why}");
                    }
                    if !done.repeated {
                        lane.stats.blocked.fetch_add(u64::from(lane.held == 0), Ordering::Relaxed);
                        lane.held += 1;
                    }
                    refused.push((settlement, note));
                    continue;
                }
                Settled::Applied => count(lane, &settlement, &note),
                // The one who was first may have been this worker.
                Settled::Superseded => lane.stats.superseded.add(u64::from(!done.resent)),
            }
            lane.unsettled -= 1;
            if done.repeated {
                lane.held -= 1;
                lane.stats.blocked.fetch_sub(u64::from(lane.held == 0), Ordering::Relaxed);
            }
            lane.suspects -= usize::from(note.suspect);
            self.schedule.activate(note.lane);
        }
        if !refused.is_empty() {
            // The lanes concerned stand still until it is written.
            let (settlements, notes) = refused.into_iter().unzip();
            self.start_settle(settlements, notes, Some(HELD_PAUSE));
        }
    }

    /// Leaves no empty consumer behind.
    async fn remove_consumers(self) {
        for source in self.lanes.iter().flat_map(|lane| &lane.sources) {
            if let Err(error) = self.broker.remove_consumer(&source.source, &self.consumer).await {
                tracing::debug!("cannot remove the consumer: {error}");
                return;
            }
        }
    }
}

/// Counts what has been written, and notes when a parked entry is due.
fn count(lane: &mut Lane, settlement: &Settlement, note: &Note) {
    match &settlement.decision {
        Decision::Ack { publishes } => {
            let counter = if note.skipped { &lane.stats.skipped } else { &lane.stats.acked };
            counter.add(1);
            lane.stats.published.add(publishes.len() as u64);
        }
        Decision::Park { pause } => {
            lane.stats.retried.add(1);
            let due = Instant::now() + *pause;
            let source = &mut lane.sources[note.source];
            source.due_at = Some(source.due_at.map_or(due, |known| known.min(due)));
        }
        Decision::DeadLetter(_) => lane.stats.dead.add(1),
    }
}

/// The pause after so many failures in a row, with full jitter above a quarter.
pub(super) fn backoff(failures: u32) -> Duration {
    let bound = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_PAUSE);
    bound.mul_f64(0.25 + 0.75 * rand::random::<f64>())
}
