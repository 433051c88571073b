//! Follows which version of each handler is to serve: prepares it beside the work, swaps it in, says how far it is.
//!
//! All workers do the same. Who has something to say writes it into the store; who sees that everybody is prepared ends the
//! rollout, in one step that succeeds once. So it does not matter who dies in between, this worker included.

mod change;
mod job;
mod prepare;
mod records;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::job::{Job, Wish};
pub(crate) use self::prepare::beside;
use self::records::{Records, Workers};
use self::turns::Turns;
use super::brokers::Brokers;
use super::roster::Member;
use super::threads::Threads;
use super::{Deployment, Orders, Worker};
use crate::broker::{BrokerError, Operate, Refusal};
use crate::clock::now_ms;
use crate::deploy::canary::{Canary, Tally};
use crate::deploy::record::{Preparation, Progress, Record, Rollout, progress_of};
use crate::deploy::{Candidate, PublicKeys, Version};
use crate::stats::{HandlerStats, VersionStats};
use crate::wasm::CompiledCache;

/// How often a worker looks whether another version is wanted: a rollback is not noticed later than that, and has switched
/// within a tenth of a second.
const POLL: Duration = Duration::from_millis(50);
/// How soon it looks again when something goes on; then less and less often, as compiling takes minutes.
const BUSY_POLL: Duration = Duration::from_millis(10);
/// How often a worker says how a canary does, and looks what others say.
const CANARY_LOOK: Duration = Duration::from_secs(1);
/// How long a version that could not be prepared, though it is to serve, is left alone.
const RETRY: Duration = Duration::from_secs(10);
/// Versions of a handler that are held ready besides the one that serves.
const MAX_PREPARED: usize = 2;

/// What is followed.
pub(super) struct Rollouts {
    store: Arc<dyn Operate>,
    worker: Arc<str>,
    cache: Option<CompiledCache>,
    keys: PublicKeys,
    handlers: Vec<Followed>,
    records: Records,
    workers: Workers,
    /// The version that is being prepared. One at a time: more would take the cores from the events.
    job: Option<Job>,
    /// What could be prepared next.
    wishes: Vec<Wish>,
    turns: Turns,
}

/// One handler.
struct Followed {
    deployment: Arc<Deployment>,
    stats: Arc<HandlerStats>,
    /// Versions that can be swapped in at any time, the newest last.
    prepared: Vec<Arc<Version>>,
    /// What was last said, and of which rollout.
    said: Option<Progress>,
    /// The version that runs a share of the events.
    trial: Option<Trial>,
    /// The version that passed its smoke tests last, and which ones.
    passed: Option<(String, String)>,
    /// The signatures by which versions have been verified here, by their digests.
    verified: BTreeMap<String, String>,
    /// Versions that cannot be prepared, with the reason, and when to try again.
    failed: BTreeMap<String, (String, Instant)>,
    /// The record that could not be read, so that it is told once.
    unreadable: String,
    /// The threads serve it. One that comes later begins with the version that is to serve.
    has_begun: bool,
    /// It has that version.
    may_begin: bool,
    /// Nothing is to be done before its record, or what is served, changes.
    is_quiet: bool,
}

/// A version that runs a share of the events.
struct Trial {
    rollout: String,
    /// What became of its deliveries.
    counts: Arc<VersionStats>,
    /// The same when it began: it may have served at some time.
    before: Tally,
    /// When it was last said how it does.
    looked: Option<Instant>,
}

/// What was seen.
struct Step {
    /// Every handler has the version that is to serve.
    has_all: bool,
    /// Something will follow soon.
    is_busy: bool,
    /// What the broker has refused for one of them.
    refused: Option<BrokerError>,
}

/// Whether a version is there.
enum Availability {
    Ready(Arc<Version>),
    Pending,
    Failed(String),
}

impl Rollouts {
    pub(super) fn new<'a>(
        store: Arc<dyn Operate>,
        worker: &Worker,
        members: impl Iterator<Item = &'a Member>,
    ) -> Rollouts {
        let handlers = members.map(|member| Followed { has_begun: true, ..Followed::new(member) });
        let (worker, cache, keys) = (worker.id.clone(), worker.cache.clone(), worker.keys.clone());
        Rollouts {
            store,
            worker,
            cache,
            keys,
            handlers: handlers.collect(),
            records: Records::default(),
            workers: Workers::default(),
            job: None,
            wishes: Vec::new(),
            turns: Turns::default(),
        }
    }

    /// Waits until each handler has the version that is to serve. A worker that begins with another one would do what was
    /// replaced for a reason.
    pub(super) async fn catch_up(&mut self) {
        let mut told = BTreeSet::new();
        loop {
            match self.step().await {
                Ok(Step { has_all: true, .. }) => return,
                Err(error @ BrokerError::Refused { refusal: Refusal::NoPermission, .. }) => {
                    tracing::warn!("versions cannot be deployed to this worker: {error}");
                    return;
                }
                Ok(Step { refused: None, .. }) => tokio::time::sleep(BUSY_POLL).await,
                Ok(Step { refused: Some(error), .. }) | Err(error) => {
                    if told.insert(error.to_string()) {
                        tracing::warn!("cannot see which versions are deployed: {error}");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Follows, and changes what is served when that is asked for, until the future is dropped. While the broker does not
    /// answer, everything stays as it is.
    pub(super) async fn follow(&mut self, brokers: &Brokers, orders: &mut Orders, threads: &Threads) {
        let mut busy = 0u32;
        loop {
            let pause = match self.step().await {
                Ok(Step { refused: Some(error), .. }) => {
                    tracing::debug!("cannot follow which version is deployed: {error}");
                    POLL
                }
                Ok(Step { is_busy: true, .. }) => {
                    busy = busy.saturating_add(1);
                    POLL.min(BUSY_POLL * busy)
                }
                Ok(_) => {
                    busy = 0;
                    POLL
                }
                Err(error) => {
                    tracing::debug!("cannot see which versions are deployed: {error}");
                    self.note_refusal(&error);
                    Duration::from_secs(1)
                }
            };
            self.begin(&orders.roster, threads);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Some(order) = orders.queue.recv() => self.obey(order, brokers, &orders.roster, threads).await,
            }
        }
    }

    /// Looks once, and does what can be done at once.
    async fn step(&mut self) -> Result<Step, BrokerError> {
        self.take_prepared().await;
        let changed = self.records.refresh(&*self.store).await?;
        self.handlers.iter_mut().for_each(|followed| followed.is_quiet &= !changed.contains(followed.deployment.id()));
        self.wishes.clear();
        let mut step = Step { has_all: true, is_busy: false, refused: None };
        for at in 0..self.handlers.len() {
            if self.handlers[at].is_quiet {
                continue;
            }
            let text = self.records.get(self.handlers[at].deployment.id()).map(str::to_owned);
            let is_settled = match text {
                Some(text) => self.look_at(at, &text, &mut step).await?,
                None => {
                    self.handlers[at].deployment.slot.set_deployed(false);
                    self.handlers[at].end_trial();
                    self.handlers[at].is_quiet = true;
                    true
                }
            };
            step.has_all &= is_settled;
            self.handlers[at].may_begin |= is_settled;
        }
        self.begin_job();
        step.is_busy |= self.job.is_some();
        Ok(step)
    }

    /// Says whether the handler, which has this record, has the version that is to serve.
    async fn look_at(&mut self, at: usize, text: &str, step: &mut Step) -> Result<bool, BrokerError> {
        let record = match Record::parse(text) {
            Ok(record) => record,
            Err(error) => {
                self.handlers[at].note_unreadable(text, &error);
                return Ok(true);
            }
        };
        self.stop_unwanted(at, &record);
        let is_settled = match self.follow_record(at, text, &record).await {
            Err(error @ BrokerError::Unreachable { .. }) => return Err(error),
            // One handler is no reason to leave the others alone.
            Err(error) => {
                step.refused = Some(error);
                false
            }
            Ok(is_settled) => is_settled,
        };
        // Pins end by themselves.
        self.handlers[at].is_quiet = is_settled && record.rollout.is_none() && record.pins.is_empty();
        step.is_busy |= record.rollout.is_some_and(|rollout| rollout.running_canary().is_none());
        Ok(is_settled)
    }

    fn followed(&mut self, handler: &str) -> Option<&mut Followed> {
        self.handlers.iter_mut().find(|followed| followed.deployment.id() == handler)
    }

    /// Says whether the handler has the version that is to serve.
    async fn follow_record(&mut self, at: usize, text: &str, record: &Record) -> Result<bool, BrokerError> {
        self.handlers[at].deployment.slot.set_deployed(record.current.is_some());
        let is_settled = match &record.current {
            Some(current) if *current != self.handlers[at].serving() => self.switch(at, current, record).await?,
            _ => true,
        };
        let has_candidate = self.follow_canary(at, record);
        if record.rollout.is_some() {
            self.prepare_rollout(at, text, record).await?;
        }
        Ok(self.hold_pinned(at, text, record).await? && is_settled && has_candidate)
    }

    /// Has the version of a canary run its share, or ends that. Says whether nothing remains to be done: a key must not see
    /// the version on one worker and another one on the next.
    fn follow_canary(&mut self, at: usize, record: &Record) -> bool {
        let running = record.rollout.as_ref().and_then(|rollout| Some((rollout, rollout.running_canary()?)));
        let Some((rollout, canary)) = running else {
            self.handlers[at].end_trial();
            return true;
        };
        if self.handlers[at].trial.as_ref().is_some_and(|trial| trial.rollout != rollout.id) {
            self.handlers[at].end_trial();
        }
        match self.want(at, &rollout.digest, record) {
            Availability::Ready(version) => {
                self.handlers[at].try_out(rollout, canary, version);
                true
            }
            Availability::Pending => false,
            // This is said, and ends the rollout.
            Availability::Failed(_) => true,
        }
    }

    /// Holds the versions that are pinned, and no others; says whether each of them is there or cannot be had.
    async fn hold_pinned(&mut self, at: usize, text: &str, record: &Record) -> Result<bool, BrokerError> {
        let deployment = self.handlers[at].deployment.clone();
        deployment.pinned.keep(|digest| record.pins.contains_key(digest));
        // This clock only saves asking for the one that counts.
        if record.pins.values().any(|pin| pin.until_ms <= now_ms())
            && let Some(next) = record.without_old_pins(self.store.time_ms().await?)
        {
            // Unless another worker has done it, or somebody has renewed them: the next look shows it.
            self.store.change_record(deployment.id(), Some(text), &next.text()).await?;
        }
        let mut has_all = true;
        for digest in record.pins.keys().filter(|digest| deployment.pinned.get(digest).is_none()) {
            match self.want(at, digest, record) {
                Availability::Ready(version) => deployment.pinned.hold(digest, Ok(version)),
                Availability::Failed(why) => deployment.pinned.hold(digest, Err(why)),
                Availability::Pending => has_all = false,
            }
        }
        Ok(has_all)
    }

    /// Swaps the version in that is to serve, if it is ready.
    async fn switch(&mut self, at: usize, current: &str, record: &Record) -> Result<bool, BrokerError> {
        let version = match self.want(at, current, record) {
            Availability::Ready(version) => version,
            Availability::Pending => return Ok(false),
            Availability::Failed(why) => {
                let handler = self.handlers[at].deployment.id();
                tracing::error!(alarm = "version_unavailable", handler, digest = current, "cannot serve it: {why}");
                // Not again before it is tried again.
                self.handlers[at].failed.retain(|digest, _| digest != current);
                self.handlers[at].failed.insert(current.to_owned(), (String::new(), Instant::now() + RETRY));
                return Ok(false);
            }
        };
        let followed = &mut self.handlers[at];
        let before = followed.deployment.slot.swap(version);
        let (handler, was) = (followed.deployment.id(), before.digest.as_str());
        tracing::info!(handler, digest = current, was, "another version serves from now on");
        followed.keep(before);
        if let Some(last) = record.last.as_ref().filter(|last| last.failed.is_none() && last.digest == current) {
            self.say(at, &last.id, Preparation::Serving).await?;
        }
        Ok(true)
    }

    /// Prepares the version of a rollout, says how far it is, and has the rollout go on if everybody has said so.
    async fn prepare_rollout(&mut self, at: usize, text: &str, record: &Record) -> Result<(), BrokerError> {
        let Some(rollout) = &record.rollout else { return Ok(()) };
        if !self.handlers[at].may_look() {
            return Ok(());
        }
        let followed = &mut self.handlers[at];
        if followed.said.as_ref().is_none_or(|said| said.rollout != rollout.id) {
            // Another signature or other smoke tests may have come with it.
            followed.failed.remove(&rollout.digest);
        }
        let state = match (self.want(at, &rollout.digest, record), self.handlers[at].tally()) {
            (Availability::Failed(why), _) => Preparation::Failed(why),
            // What has been counted must not be taken back.
            (_, Some(tally)) => Preparation::Canary(tally),
            (Availability::Ready(_), None) => Preparation::Prepared,
            (Availability::Pending, None) => Preparation::Preparing,
        };
        self.say(at, &rollout.id, state).await?;
        let handler = self.handlers[at].deployment.id().to_owned();
        let alive = self.workers.that_serve(&handler, &*self.store).await?;
        let said = self.store.reports(&handler).await?;
        let names: Vec<&str> = alive.iter().map(String::as_str).collect();
        let next = record.advance(&names, &progress_of(&said), self.store.time_ms().await?);
        if let Some(trial) = &mut self.handlers[at].trial {
            trial.looked = Some(Instant::now());
        }
        let Some(next) = next else { return Ok(()) };
        if self.store.change_record(&handler, Some(text), &next.text()).await? {
            tell(&handler, rollout, &next);
            if next.rollout.is_none() {
                let gone: Vec<String> = said.into_keys().filter(|worker| !alive.contains(worker)).collect();
                self.store.forget_reports(&handler, &gone).await?;
            }
        }
        Ok(())
    }

    /// Tells the fleet, unless it has been told.
    async fn say(&mut self, at: usize, rollout: &str, state: Preparation) -> Result<(), BrokerError> {
        let progress = Progress { rollout: rollout.to_owned(), state };
        if self.handlers[at].said.as_ref() == Some(&progress) {
            return Ok(());
        }
        let text = serde_json::to_string(&progress).expect("progress has nothing that JSON lacks");
        self.store.report(self.handlers[at].deployment.id(), &self.worker, &text).await?;
        self.handlers[at].said = Some(progress);
        Ok(())
    }

    /// A version, if it is ready; otherwise it is one of those that can be prepared next.
    fn want(&mut self, at: usize, digest: &str, record: &Record) -> Availability {
        let followed = &mut self.handlers[at];
        let smoke = record.smoke(digest);
        let known = record.versions.iter().find(|known| known.digest == digest);
        let signature = known.and_then(|known| known.signature.clone());
        // What is in memory was verified by some signature. It must be the one of the record: others will go by that.
        let is_verified =
            self.keys.is_empty() || signature.as_ref().is_some_and(|it| followed.verified.get(digest) == Some(it));
        if let Some(version) = followed.version(digest).filter(|_| is_verified && followed.has_passed(digest, smoke)) {
            return Availability::Ready(version);
        }
        if let Some((why, until)) = followed.failed.get(digest)
            && Instant::now() < *until
        {
            return if why.is_empty() { Availability::Pending } else { Availability::Failed(why.clone()) };
        }
        if self.job.is_none() {
            let is_new = record.rollout.as_ref().is_some_and(|rollout| rollout.digest == digest);
            followed.verified.retain(|digest, _| record.versions.iter().any(|known| known.digest == *digest));
            self.wishes.push(Wish {
                at,
                digest: digest.to_owned(),
                size: known.map_or(0, |known| known.size),
                smoke: smoke.map(str::to_owned),
                signature,
                is_new,
            });
        }
        Availability::Pending
    }
}

impl Followed {
    fn new(member: &Member) -> Followed {
        Followed {
            deployment: member.deployment.clone(),
            stats: member.stats.clone(),
            prepared: Vec::new(),
            said: None,
            trial: None,
            passed: None,
            verified: BTreeMap::new(),
            failed: BTreeMap::new(),
            unreadable: String::new(),
            has_begun: false,
            may_begin: false,
            is_quiet: false,
        }
    }

    /// The digest of the version that serves.
    fn serving(&self) -> String {
        self.deployment.slot.current().handler.component.digest.hex()
    }

    fn version(&self, digest: &str) -> Option<Arc<Version>> {
        let slot = &self.deployment.slot;
        let (current, candidate) = (slot.current(), slot.candidate().map(|candidate| candidate.version));
        let mut known = self.prepared.iter().chain([&current]).chain(&candidate);
        known.find(|version| version.handler.component.digest.hex() == digest).cloned()
    }

    /// Whether a version has passed these smoke tests, if there are any.
    fn has_passed(&self, digest: &str, smoke: Option<&str>) -> bool {
        let passed = self.passed.as_ref().map(|(digest, smoke)| (digest.as_str(), smoke.as_str()));
        smoke.is_none_or(|smoke| passed == Some((digest, smoke)))
    }

    /// Exchanges the version that serves for one with other grants, limits or isolation, or with another component that was
    /// not deployed. What is held ready gets the same grants; what cannot have them goes. A version that runs a share goes on.
    fn exchange(&mut self, next: Arc<Version>) {
        let fitting = |version: &Arc<Version>| version.as_granted_to(&next.handler).ok();
        self.prepared = self.prepared.iter().filter_map(fitting).collect();
        self.failed.clear();
        self.passed = None;
        let slot = &self.deployment.slot;
        let candidate = slot.candidate().and_then(|candidate| {
            let digest = &candidate.version.digest;
            let held = self.prepared.iter().find(|held| held.digest == *digest).cloned();
            Some(Candidate { version: held.or_else(|| fitting(&candidate.version))?, ..candidate })
        });
        self.deployment.pinned.exchange(&next.handler);
        slot.replace(next, candidate);
    }

    /// Has a version run its share of the events, unless it does.
    fn try_out(&mut self, rollout: &Rollout, canary: &Canary, version: Arc<Version>) {
        if self.trial.is_none() {
            let counts = self.stats.version(&version.digest);
            let before = counts.tally();
            self.trial = Some(Trial { rollout: rollout.id.clone(), counts, before, looked: None });
        }
        let slot = &self.deployment.slot;
        if slot.candidate().is_none_or(|candidate| !Arc::ptr_eq(&candidate.version, &version)) {
            let (handler, digest, share) = (self.deployment.id(), &version.digest, canary.share);
            tracing::info!(handler, digest, "a version runs {share} of the events from now on");
            slot.try_out(Some(Candidate { version, share }));
        }
    }

    fn end_trial(&mut self) {
        if self.trial.take().is_some() && self.deployment.slot.candidate().is_some() {
            self.deployment.slot.try_out(None);
        }
    }

    /// What became of deliveries on the version that runs a share of the events.
    fn tally(&self) -> Option<Tally> {
        let trial = self.trial.as_ref()?;
        let tally = trial.counts.tally();
        let since = |now: u64, before: u64| now.saturating_sub(before);
        let (acked, failed) = (since(tally.acked, trial.before.acked), since(tally.failed, trial.before.failed));
        Some(Tally { acked, failed })
    }

    /// Whether it is time to say how the rollout goes. How a canary does need not be said all the time.
    fn may_look(&self) -> bool {
        let looked = self.trial.as_ref().and_then(|trial| trial.looked);
        looked.is_none_or(|looked| looked.elapsed() >= CANARY_LOOK)
    }

    /// Keeps a version that has served: it may be gone back to.
    fn keep(&mut self, version: Arc<Version>) {
        let digest = version.handler.component.digest;
        let serving = self.deployment.slot.current().handler.component.digest;
        self.prepared.retain(|known| ![digest, serving].contains(&known.handler.component.digest));
        self.hold(version);
    }

    /// Holds a version ready; the one that was held longest goes if there are too many.
    fn hold(&mut self, version: Arc<Version>) {
        self.prepared.retain(|known| known.digest != version.digest);
        if self.prepared.len() >= MAX_PREPARED {
            self.prepared.remove(0);
        }
        self.prepared.push(version);
    }

    fn note_unreadable(&mut self, text: &str, error: &serde_json::Error) {
        if self.unreadable != text {
            let handler = self.deployment.id();
            tracing::error!(alarm = "record_unreadable", handler, "wasmill:deployments cannot be read: {error}");
            text.clone_into(&mut self.unreadable);
        }
    }
}

/// Writes into the log how a rollout has gone on.
fn tell(handler: &str, rollout: &Rollout, next: &Record) {
    let digest = &rollout.digest;
    let failed = next.last.as_ref().and_then(|last| last.failed.as_deref());
    match (&next.rollout, failed) {
        (Some(_), _) => tracing::info!(handler, digest, "every worker is prepared: the version runs its share"),
        (None, Some(why)) => tracing::warn!(handler, digest, "a version is not deployed: {why}"),
        (None, None) => tracing::info!(handler, digest, "the version serves"),
    }
}
