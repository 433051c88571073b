//! One thread of the pipeline: it reads, runs and settles for its share of every handler, with connections of its own.
//!
//! The loop only names what happened; [`Shard::apply`] (with what is asked of the broker, in [`io`]) and its helpers
//! decide, and never wait.

mod again;
mod agenda;
mod io;
mod members;
mod settled;
mod tenants;
mod ways;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use slab::Slab;
use tokio::sync::mpsc;

use self::agenda::{Agenda, Waiting};
use self::io::IoDone;
pub(super) use self::io::backoff;
use self::tenants::{NotYet, Tenants, Wait, a_little_later};
use self::ways::{Load, Ways};
use super::batch::{Note, Ticket, Weight, settle_until_written};
use super::brokers::Brokers;
use super::budget::Quota;
use super::courtesy::Courtesy;
use super::lane::{Lane, LaneSource, Standing};
use super::run::{Concluded, Delivery, Finished, Prepared};
use super::runs::{Run, Woken};
use super::watch::{Thread, Watch};
use super::{Command, LEAVE_TIME, MAX_INSTANCES, Share, Worker};
use crate::broker::{BrokerError, Source};
use crate::outcome::{Decision, Settlement};
use crate::schedule::Schedule;

/// Deliveries that are run before input and output get a turn.
const RUNS_PER_TURN: usize = 16;
/// The longest that deliveries are run before input and output get a turn; one that has been begun ends its stretch.
const TURN: Duration = Duration::from_micros(500);
/// So long after an answer the next event is not expected yet...
const JUST_ANSWERED: Duration = Duration::from_micros(100);
/// ... and from then on no more than at any other time: a thread that gets more than 200 answers a second is busy.
const STILL_BUSY: Duration = Duration::from_millis(5);
/// How often lanes without deliveries look whether another version serves.
const REFRESH: Duration = Duration::from_secs(1);
/// How often writes that the broker refused are tried again.
const HELD_PAUSE: Duration = Duration::from_secs(1);

/// The state of the thread.
pub(super) struct Shard {
    worker: Arc<Worker>,
    ways: Ways,
    consumer: Arc<str>,
    lanes: Slab<Lane>,
    /// The lanes by the names of their handlers.
    by_name: HashMap<Arc<str>, usize>,
    /// The lanes that read a stream, by its key.
    readers: HashMap<Arc<str>, Vec<usize>>,
    /// The lanes that something may be asked for.
    agenda: Agenda,
    tenants: Tenants,
    /// Sources of lanes that were given up with entries that nobody has begun.
    left: HashSet<Arc<Source>>,
    schedule: Schedule,
    /// The lanes with deliveries that can go on.
    woken: Arc<Woken>,
    /// Lanes that could begin a delivery if the thread did.
    held_back: Waiting,
    /// Lanes that go on when nothing is expected.
    courteous: Waiting,
    /// Deliveries begun and not finished.
    running: usize,
    /// The most deliveries that run at the same time, so that there is an instance for each.
    most_running: usize,
    /// The same as the lanes want it.
    shares: usize,
    io: FuturesUnordered<BoxFuture<'static, IoDone>>,
    /// How many of these read what is new.
    reads: usize,
    /// When one of these, or of the batches that were sent, was answered last.
    answered: Instant,
    commands: mpsc::UnboundedReceiver<Command>,
    /// This one, for those who wake it.
    thread: Thread,
    watch: Arc<Watch>,
    /// When to give up what is not finished; set when draining began.
    drain_until: Option<Instant>,
    /// When it was last looked whether lanes without deliveries hold on to an old version.
    refreshed: Instant,
}

impl Shard {
    pub(super) fn new(
        worker: Arc<Worker>,
        brokers: Brokers,
        consumer: Arc<str>,
        commands: mpsc::UnboundedReceiver<Command>,
        thread: Thread,
        watch: Arc<Watch>,
        courtesy: Arc<Courtesy>,
    ) -> Shard {
        let most_running = (MAX_INSTANCES / 2).div_ceil(worker.threads.max(1));
        Shard {
            worker,
            ways: Ways::new(brokers),
            consumer,
            lanes: Slab::new(),
            by_name: HashMap::new(),
            readers: HashMap::new(),
            agenda: Agenda::default(),
            tenants: Tenants::new(courtesy),
            left: HashSet::new(),
            schedule: Schedule::default(),
            woken: Arc::default(),
            held_back: Waiting::default(),
            courteous: Waiting::default(),
            running: 0,
            most_running,
            shares: 0,
            io: FuturesUnordered::new(),
            reads: 0,
            answered: Instant::now(),
            commands,
            thread,
            watch,
            drain_until: None,
            refreshed: Instant::now(),
        }
    }

    /// Works until it is told to drain and has drained.
    pub(super) async fn run(mut self) {
        loop {
            self.take_in();
            let started = self.start_io();
            if started {
                // Sends it before anything else is run.
                self.take_in();
                tokio::task::yield_now().await;
            }
            let ran = self.run_some();
            if ran || started {
                // Sees what can be sent and received, then does so, without waiting for more.
                tokio::task::yield_now().await;
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
        self.lanes.iter_mut().for_each(|(_, lane)| lane.runs.clear());
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
        self.take_woken();
    }

    fn take_woken(&mut self) {
        for place in self.woken.take() {
            if let Some(known) = self.lanes.get_mut(place.lane) {
                known.runs.wake(place);
                self.schedule.activate(place.lane);
            }
        }
    }

    /// Something about the lane is other than before: it may have something to run, and something may be asked for it.
    fn touch(&mut self, lane: usize) {
        self.schedule.activate(lane);
        self.agenda.list(lane);
    }

    /// Waits for whatever happens next.
    async fn wait(&mut self) {
        // A lane without deliveries looks here: it must not keep instances of an old version.
        if self.refreshed.elapsed() >= REFRESH {
            self.lanes.iter_mut().for_each(|(_, lane)| lane.refresh());
            self.refreshed = Instant::now();
        }
        let timer = self.next_timer();
        let woken = self.woken.clone();
        self.thread.set_idle(true);
        tokio::select! {
            Some(command) = self.commands.recv() => self.obey(command),
            Some(done) = self.io.next(), if !self.io.is_empty() => self.apply(done),
            () = woken.any() => self.take_woken(),
            () = tokio::time::sleep_until(timer.into()) => {}
        }
        self.thread.set_idle(false);
    }

    /// When something has to be done though nothing happens.
    fn next_timer(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + REFRESH;
        if let Some(until) = self.drain_until {
            next = next.min(until);
        }
        // Only what can be done at that time: else the thread would wake up for nothing, again and again.
        if let Some(due) = self.ways.next_due() {
            next = next.min(due);
        }
        if self.drain_until.is_none() {
            next = self.agenda.next_timer().map_or(next, |timer| next.min(timer));
        }
        next.max(now + Duration::from_millis(1))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Wake(source) => self.wake(&source),
            Command::Due { handler, source } => {
                let Some((lane, source)) = self.member(&handler, &source) else { return };
                // Claims on their way tell when the next one is due.
                if source.claims == 0 {
                    source.due_at = Some(Instant::now());
                    self.agenda.list(lane);
                }
            }
            Command::Inherit { handler, source, from } => {
                let Some((lane, source)) = self.member(&handler, &source) else { return };
                if !source.heirlooms.contains(&from) {
                    source.heirlooms.push_back(from);
                    self.agenda.list(lane);
                }
            }
            Command::Pause { handler, paused } => {
                if let Some(&lane) = self.by_name.get(&handler) {
                    self.lanes[lane].paused = paused;
                    self.touch(lane);
                }
            }
            Command::Serve { deployment, share: Share { handler: 0, .. }, .. } => self.leave(&deployment.id, false),
            Command::Serve { deployment, stats, budget, share, paused } => {
                self.serve(deployment, (stats, &budget), share, paused);
            }
            Command::Leave { handler } => self.leave(&handler, true),
            Command::Drain { until } => {
                self.drain_until = Some(until);
                // What has been read is finished now, whatever its tenant may use.
                let lanes: Vec<usize> = self.lanes.iter().map(|(at, _)| at).collect();
                lanes.into_iter().for_each(|lane| self.touch(lane));
            }
        }
    }

    /// A source of the handler that is read here, and the lane that reads it.
    fn member(&mut self, handler: &str, source: &Source) -> Option<(usize, &mut LaneSource)> {
        let &at = self.by_name.get(handler)?;
        let mut sources = self.lanes[at].sources.iter_mut();
        let known = sources.find(|known| *known.source == *source && known.standing == Standing::Member)?;
        Some((at, known))
    }

    fn is_drained(&self) -> bool {
        let Some(until) = self.drain_until else { return false };
        let quiet = self.lanes.iter().all(|(_, lane)| lane.may_leave()) && self.ways.is_empty();
        quiet || Instant::now() >= until
    }

    /// Starts every request that is called for; says whether there was one.
    fn start_io(&mut self) -> bool {
        let before = self.io.len();
        let now = Instant::now();
        self.agenda.advance(now);
        while let Some(lane) = self.agenda.take() {
            if self.lanes.contains(lane) {
                self.look(lane, now);
            }
        }
        let is_idle = self.ways.has_unsent() && self.next_lane(now).is_none();
        for Load { way, settlements, notes } in self.ways.take_ready(now, is_idle) {
            self.start_settle(way, settlements, notes, None);
            self.ways.take_held_back(way).into_iter().for_each(|lane| self.schedule.activate(lane));
        }
        self.io.len() > before
    }

    /// Starts what is called for by one lane.
    fn look(&mut self, lane: usize, now: Instant) {
        // It may have waited for its tenant's quota.
        if self.lanes[lane].can_run() {
            self.schedule.activate(lane);
        }
        if self.drain_until.is_none() {
            // Whoever asks for more never finds the quiet that the search needs.
            let has_asked = match self.lanes[lane].is_searching() {
                true => self.start_search(lane, now),
                false => self.start_claims(lane, now) && self.start_reads(lane, now),
            };
            // One that could not ask is told when it can.
            if let Some(timer) = self.lanes[lane].next_timer().filter(|_| has_asked) {
                self.agenda.list_at(lane, timer);
            }
        }
        self.let_go(lane);
    }

    fn start_settle(&mut self, way: usize, settlements: Vec<Settlement>, notes: Vec<Note>, after: Option<Duration>) {
        let (broker, consumer) = (self.ways.broker(way).clone(), self.consumer.clone());
        let repeated = after.is_some();
        self.io.push(Box::pin(async move {
            if let Some(pause) = after {
                tokio::time::sleep(pause).await;
            }
            let done = settle_until_written(&*broker, &consumer, settlements, notes, repeated).await;
            IoDone::Settled { way, done }
        }));
    }

    /// Whether entries or decisions are on their way, or likely are soon: best is the moment behind an answer.
    fn is_expecting(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.answered);
        self.reads > 0 || !self.ways.is_empty() || (JUST_ANSWERED..STILL_BUSY).contains(&since)
    }

    /// Whether the thread may begin one more delivery: there is an instance for it.
    fn may_begin(&self) -> bool {
        self.running < self.shares.clamp(1, self.most_running)
    }

    /// Runs some of what is ready; says whether there was any.
    fn run_some(&mut self) -> bool {
        let start = Instant::now();
        if self.may_begin() {
            self.held_back.take().into_iter().for_each(|lane| self.schedule.activate(lane));
        }
        if !self.is_expecting(start) {
            let lanes = self.courteous.take().into_iter().filter(|lane| self.lanes.contains(*lane));
            lanes.for_each(|lane| self.schedule.activate(lane));
        }
        let mut now = start;
        for ran in 0..RUNS_PER_TURN {
            let Some((lane, may_begin)) = self.next_lane(now) else { return ran > 0 };
            now = self.run_next(lane, may_begin, now);
            if now.duration_since(start) >= TURN || self.ways.is_pressing() {
                return true;
            }
        }
        true
    }

    /// The lane to run something of, and whether that may be a delivery that is begun. Those that have to wait leave their
    /// places until then.
    fn next_lane(&mut self, now: Instant) -> Option<(usize, bool)> {
        let (has_room, is_draining) = (self.may_begin(), self.drain_until.is_some());
        let crowd = (self.shares > self.most_running).then_some((self.running, self.most_running));
        let is_expecting = self.is_expecting(now);
        let Shard { lanes, schedule, tenants, agenda, held_back, courteous, ways, .. } = &mut *self;
        let mut may_begin = false;
        let lane = schedule.next(|at| {
            let Some(lane) = lanes.get(at) else { return false };
            let (can_begin, can_go_on) = (lane.can_begin(), lane.runs.can_go_on());
            if !can_begin && !can_go_on {
                return false;
            }
            if let Err(NotYet { until, or_answered }) = tenants.may_go_on(lane.tenant, now, is_expecting, is_draining) {
                agenda.list_at(at, until);
                if or_answered {
                    courteous.add(at);
                }
                return false;
            }
            let way = ways.next_of(lane, tenants.is_prompt(lane));
            let wait = match can_begin {
                false => None,
                true if !ways.has_room(way) => Some(Wait::ToWrite),
                true if !has_room => Some(Wait::ForAny),
                true => tenants.may_begin(lane.tenant, crowd, now, is_draining).err(),
            };
            may_begin = can_begin && wait.is_none();
            if may_begin || can_go_on {
                return true;
            }
            match wait {
                None => {}
                Some(Wait::ToWrite) => ways.hold_back(way, at),
                Some(Wait::ForAny) => _ = held_back.add(at),
                Some(Wait::ForOwn) => tenants[lane.tenant].wait_for_own(at),
                Some(Wait::ToPublish(until)) => {
                    tenants[lane.tenant].budget.count_wait(Quota::EventsOut);
                    agenda.list_at(at, a_little_later(until));
                }
            }
            false
        });
        lane.map(|lane| (lane, may_begin))
    }

    /// Runs a delivery of the lane as far as it goes without waiting; when that was over.
    fn run_next(&mut self, lane_at: usize, can_begin: bool, start: Instant) -> Instant {
        let lane = &mut self.lanes[lane_at];
        self.tenants.goes_on(lane.tenant, start);
        lane.went_on = lane.runs.can_go_on() && !(can_begin && lane.went_on);
        if lane.went_on {
            if let Some(finished) = lane.runs.go_on() {
                self.finish(finished);
            }
            // One that only gave up the thread can go on again: its lane keeps its place.
            self.take_woken();
        } else if can_begin {
            self.begin(lane_at);
        }
        let end = Instant::now();
        let nanos = u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX);
        self.schedule.charge(lane_at, nanos);
        let lane = &self.lanes[lane_at];
        lane.stats.cpu_nanos.add(nanos);
        self.tenants.used_cpu(lane.tenant, start, end);
        end
    }

    /// Takes the lane's next delivery as far as it goes without waiting.
    fn begin(&mut self, lane_at: usize) {
        self.agenda.list(lane_at);
        let Some(delivery) = self.next_delivery(lane_at) else { return };
        let lane = &mut self.lanes[lane_at];
        let warm = lane.take_warm(delivery.version());
        lane.running += 1;
        self.running += 1;
        self.tenants[lane.tenant].begun();
        let state = delivery.reader(self.ways.broker(lane.way));
        let throttled = self.tenants[lane.tenant].throttled.clone();
        let mut run: Run = Box::pin(super::run::run(lane_at, *delivery, warm, state, throttled));
        // Most handlers return without waiting: then no task, timer or queue was needed.
        match (&mut run).now_or_never() {
            Some(finished) => self.finish(finished),
            None => self.lanes[lane_at].runs.push(run),
        }
    }

    /// One that is to be run again, or the lane's next entry, if it has to be run and need not wait for its turn.
    fn next_delivery(&mut self, lane_at: usize) -> Option<Box<Delivery>> {
        let lane = &mut self.lanes[lane_at];
        let tenant = lane.tenant;
        let mut next = lane.again.pop_front();
        let mut taken = None;
        if next.is_none() {
            let ready = lane.ready.pop_front()?;
            let bytes = ready.bytes;
            match super::run::prepare(&self.worker, lane, ready) {
                Prepared::Decided { decision, ticket } => {
                    lane.unsettled += 1;
                    self.push(lane_at, ticket, decision, None);
                    taken = Some(bytes);
                }
                Prepared::Delivery(delivery) => next = lane.in_turn(delivery),
            }
        }
        // What waits for its turn is held as what was only read.
        if let Some(bytes) = taken.or_else(|| next.as_mut()?.ahead.take()) {
            let hungry = self.tenants[tenant].taken(bytes);
            hungry.into_iter().for_each(|other| self.agenda.list(other));
        }
        next
    }

    /// A handler is done: its decision goes into the batch.
    fn finish(&mut self, finished: Finished) {
        let lane_at = finished.lane;
        let lane = &mut self.lanes[lane_at];
        lane.running -= 1;
        self.running -= 1;
        let crowded = self.tenants[lane.tenant].finished();
        crowded.into_iter().for_each(|other| self.schedule.activate(other));
        lane.saw_duration(finished.execution.wall);
        let (concluded, warm) = super::run::conclude(&self.worker, lane, finished);
        lane.warm.extend(warm);
        match concluded {
            Concluded::Decided { decision, ticket, delivery } => {
                lane.unsettled += 1;
                if let Decision::Ack { publishes, .. } = &decision {
                    self.tenants[lane.tenant].budget.published(publishes);
                }
                self.push(lane_at, ticket, decision, delivery);
            }
            Concluded::Unreadable(delivery, why) => self.unreadable(lane_at, delivery, &why),
        }
        self.touch(lane_at);
    }

    /// Adds a decision to those that are to be written.
    fn push(&mut self, lane_at: usize, ticket: Ticket, decision: Decision, delivery: Option<Box<Delivery>>) {
        let lane = &mut self.lanes[lane_at];
        let weight = Weight::of(&decision, ticket.bytes);
        lane.is_heavy = !weight.is_light();
        let is_prompt = self.tenants.is_prompt(lane);
        let way = self.ways.next_of(lane, is_prompt);
        self.ways.push(way, (lane_at, is_prompt), weight, ticket, decision, delivery);
    }

    /// Leaves no empty consumer behind.
    async fn remove_consumers(self) {
        let sources = self.lanes.iter().flat_map(|(_, lane)| lane.sources.iter().map(|source| (lane.way, source)));
        for (way, source) in sources.filter(|(_, source)| source.standing != Standing::Gone) {
            if let Err(error) = self.ways.broker(way).remove_consumer(&source.source, &self.consumer).await {
                tracing::debug!("cannot remove the consumer: {error}");
                // What is refused for one is no reason to leave others behind.
                if matches!(error, BrokerError::Unreachable { .. }) {
                    return;
                }
            }
        }
    }
}
