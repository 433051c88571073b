//! Follows which version of each handler is to serve: prepares it beside the work, swaps it in, says how far it is.
//!
//! All workers do the same. Who has something to say writes it into the store; who sees that everybody is prepared ends the
//! rollout, in one step that succeeds once. So it does not matter who dies in between, this worker included.

mod change;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task;

use super::threads::Threads;
use super::{Deployment, Orders, Worker};
use crate::broker::{Broker, BrokerError, Operate};
use crate::deploy::Version;
use crate::deploy::record::{Preparation, Progress, Record};
use crate::fleet::WorkerReport;
use crate::wasm::{CompiledCache, Engine};

/// How often a worker looks whether another version is wanted: a rollback is not noticed later than that.
const POLL: Duration = Duration::from_millis(100);
/// The same while something is going on.
const BUSY_POLL: Duration = Duration::from_millis(10);
/// How long a version that could not be prepared, though it is to serve, is left alone.
const RETRY: Duration = Duration::from_secs(10);
/// Versions of a handler that are held ready besides the one that serves.
const MAX_PREPARED: usize = 2;

/// What is followed.
pub(super) struct Rollouts {
    store: Arc<dyn Operate>,
    worker: Arc<str>,
    cache: Option<CompiledCache>,
    handlers: Vec<Followed>,
    /// The version that is being prepared. One at a time: more would take the cores from the events.
    job: Option<Job>,
}

/// One handler.
struct Followed {
    deployment: Arc<Deployment>,
    /// Versions that can be swapped in at any time, the newest last.
    prepared: Vec<Arc<Version>>,
    /// What was last said, and of which rollout.
    said: Option<Progress>,
    /// Versions that cannot be prepared, with the reason, and when to try again.
    failed: BTreeMap<String, (String, Instant)>,
    /// The record that could not be read, so that it is told once.
    unreadable: String,
    /// The threads serve it. One that comes later begins with the version that is to serve.
    has_begun: bool,
    /// It has that version.
    may_begin: bool,
}

/// A version in preparation.
struct Job {
    handler: Arc<str>,
    digest: String,
    task: task::JoinHandle<Result<Version, String>>,
}

/// What was seen.
struct Step {
    /// Every handler has the version that is to serve.
    has_all: bool,
    /// Something will follow soon.
    is_busy: bool,
}

/// Whether a version is there.
enum Wanted {
    Ready(Arc<Version>),
    Pending,
    Failed(String),
}

impl Rollouts {
    pub(super) fn new<'a>(
        store: Arc<dyn Operate>,
        worker: &Worker,
        deployments: impl Iterator<Item = &'a Arc<Deployment>>,
    ) -> Rollouts {
        let handlers = deployments.map(|deployment| Followed { has_begun: true, ..Followed::new(deployment.clone()) });
        let (worker, cache) = (worker.id.clone(), worker.cache.clone());
        Rollouts { store, worker, cache, handlers: handlers.collect(), job: None }
    }

    /// Waits until each handler has the version that is to serve. A worker that begins with another one would do what was
    /// replaced for a reason.
    pub(super) async fn catch_up(&mut self) {
        let mut told = BTreeSet::new();
        loop {
            match self.step().await {
                Ok(Step { has_all: true, .. }) => return,
                Ok(_) => tokio::time::sleep(BUSY_POLL).await,
                Err(error @ BrokerError::Refused { .. }) => {
                    tracing::warn!("versions cannot be deployed to this worker: {error}");
                    return;
                }
                Err(error) => {
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
    pub(super) async fn follow(&mut self, broker: &dyn Broker, orders: &mut Orders, threads: &Threads) {
        loop {
            let pause = match self.step().await {
                Ok(Step { is_busy: true, .. }) => BUSY_POLL,
                Ok(_) => POLL,
                Err(error) => {
                    tracing::debug!("cannot see which versions are deployed: {error}");
                    self.note_refusal(&error);
                    Duration::from_secs(1)
                }
            };
            self.begin(&orders.roster, threads);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Some(order) = orders.queue.recv() => self.obey(order, broker, &orders.roster, threads).await,
            }
        }
    }

    /// Looks once, and does what can be done at once.
    async fn step(&mut self) -> Result<Step, BrokerError> {
        self.take_prepared().await;
        let records = self.store.records().await?;
        let mut step = Step { has_all: true, is_busy: false };
        for at in 0..self.handlers.len() {
            let is_settled =
                match records.get(self.handlers[at].deployment.name()).map(|text| (text, Record::parse(text))) {
                    Some((text, Ok(record))) => {
                        step.is_busy |= record.rollout.is_some();
                        self.follow_record(at, text, &record).await?
                    }
                    Some((text, Err(error))) => {
                        self.handlers[at].note_unreadable(text, &error);
                        true
                    }
                    None => {
                        self.handlers[at].deployment.slot.set_deployed(false);
                        true
                    }
                };
            step.has_all &= is_settled;
            self.handlers[at].may_begin |= is_settled;
        }
        step.is_busy |= self.job.is_some();
        Ok(step)
    }

    /// Takes over what has been prepared meanwhile.
    async fn take_prepared(&mut self) {
        let Some(job) = self.job.take_if(|job| job.task.is_finished()) else { return };
        let result = job.task.await.unwrap_or_else(|panic| Err(format!("preparing it ended badly: {panic}")));
        // The handler may have gone meanwhile.
        let Some(followed) = self.handlers.iter_mut().find(|followed| followed.deployment.name == job.handler) else {
            return;
        };
        match result {
            Ok(version) => {
                followed.hold(Arc::new(version));
                followed.failed.remove(&job.digest);
            }
            Err(why) => {
                followed.failed.insert(job.digest, (why, Instant::now() + RETRY));
            }
        }
    }

    /// Says whether the handler has the version that is to serve.
    async fn follow_record(&mut self, at: usize, text: &str, record: &Record) -> Result<bool, BrokerError> {
        self.handlers[at].deployment.slot.set_deployed(record.current.is_some());
        let is_settled = match &record.current {
            Some(current) if *current != self.handlers[at].serving() => self.switch(at, current, record).await?,
            _ => true,
        };
        if record.rollout.is_some() {
            self.prepare_rollout(at, text, record).await?;
        }
        Ok(is_settled)
    }

    /// Swaps the version in that is to serve, if it is ready.
    async fn switch(&mut self, at: usize, current: &str, record: &Record) -> Result<bool, BrokerError> {
        let version = match self.want(at, current, record) {
            Wanted::Ready(version) => version,
            Wanted::Pending => return Ok(false),
            Wanted::Failed(why) => {
                let handler = self.handlers[at].deployment.name();
                tracing::error!(alarm = "version_unavailable", handler, digest = current, "cannot serve it: {why}");
                // Not again before it is tried again.
                self.handlers[at].failed.retain(|digest, _| digest != current);
                self.handlers[at].failed.insert(current.to_owned(), (String::new(), Instant::now() + RETRY));
                return Ok(false);
            }
        };
        let followed = &mut self.handlers[at];
        let before = followed.deployment.slot.swap(version);
        let (handler, was) = (followed.deployment.name(), before.digest.as_str());
        tracing::info!(handler, digest = current, was, "another version serves from now on");
        followed.keep(before);
        if let Some(last) = record.last.as_ref().filter(|last| last.failed.is_none() && last.digest == current) {
            self.say(at, &last.id, Preparation::Serving).await?;
        }
        Ok(true)
    }

    /// Prepares the version of a rollout, says so, and ends the rollout if everybody has said so.
    async fn prepare_rollout(&mut self, at: usize, text: &str, record: &Record) -> Result<(), BrokerError> {
        let Some(rollout) = &record.rollout else { return Ok(()) };
        let state = match self.want(at, &rollout.digest, record) {
            Wanted::Ready(_) => Preparation::Prepared,
            Wanted::Pending => Preparation::Preparing,
            Wanted::Failed(why) => Preparation::Failed(why),
        };
        self.say(at, &rollout.id, state).await?;
        let handler = self.handlers[at].deployment.name().to_owned();
        let alive = self.workers_of(&handler).await?;
        let said = self.store.reports(&handler).await?;
        let parsed = said.iter().filter_map(|(worker, text)| Some((worker.clone(), serde_json::from_str(text).ok()?)));
        let names: Vec<&str> = alive.iter().map(String::as_str).collect();
        let Some(next) = record.advance(&names, &parsed.collect(), self.store.time_ms().await?) else { return Ok(()) };
        if self.store.change_record(&handler, Some(text), &next.text()).await? {
            let failed = next.last.as_ref().and_then(|last| last.failed.as_deref());
            match failed {
                Some(why) => tracing::warn!(handler, digest = rollout.digest, "a version is not deployed: {why}"),
                None => {
                    tracing::info!(handler, digest = rollout.digest, "every worker is prepared: the version serves")
                }
            }
            let gone: Vec<String> = said.into_keys().filter(|worker| !alive.contains(worker)).collect();
            self.store.forget_reports(&handler, &gone).await?;
        }
        Ok(())
    }

    /// Workers that are alive and serve the handler.
    async fn workers_of(&self, handler: &str) -> Result<Vec<String>, BrokerError> {
        let workers = self.store.workers().await?.into_iter();
        let serving = workers.filter(|(_, report)| {
            serde_json::from_str::<WorkerReport>(report).is_ok_and(|report| report.handlers.contains_key(handler))
        });
        Ok(serving.map(|(worker, _)| worker).collect())
    }

    /// Tells the fleet, unless it has been told.
    async fn say(&mut self, at: usize, rollout: &str, state: Preparation) -> Result<(), BrokerError> {
        let progress = Progress { rollout: rollout.to_owned(), state };
        if self.handlers[at].said.as_ref() == Some(&progress) {
            return Ok(());
        }
        let text = serde_json::to_string(&progress).expect("progress has nothing that JSON lacks");
        self.store.report(self.handlers[at].deployment.name(), &self.worker, &text).await?;
        self.handlers[at].said = Some(progress);
        Ok(())
    }

    /// A version, if it is ready; begins to prepare it otherwise.
    fn want(&mut self, at: usize, digest: &str, record: &Record) -> Wanted {
        let followed = &self.handlers[at];
        if let Some(version) = followed.version(digest) {
            // What it may do may have changed since it was prepared.
            let current = followed.deployment.slot.current();
            return match version.as_granted_to(&current.handler) {
                Ok(version) => Wanted::Ready(version),
                Err(error) => Wanted::Failed(error.to_string()),
            };
        }
        if let Some((why, until)) = followed.failed.get(digest)
            && Instant::now() < *until
        {
            return if why.is_empty() { Wanted::Pending } else { Wanted::Failed(why.clone()) };
        }
        if self.job.is_none() {
            let size = record.find(digest).map_or(0, |version| version.size);
            let (store, cache, digest) = (self.store.clone(), self.cache.clone(), digest.to_owned());
            let current = followed.deployment.slot.current();
            let task = tokio::spawn(prepare(store, cache, current, digest.clone(), size));
            self.job = Some(Job { handler: followed.deployment.name.clone(), digest, task });
        }
        Wanted::Pending
    }
}

impl Drop for Rollouts {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            job.task.abort();
        }
    }
}

impl Followed {
    fn new(deployment: Arc<Deployment>) -> Followed {
        Followed {
            deployment,
            prepared: Vec::new(),
            said: None,
            failed: BTreeMap::new(),
            unreadable: String::new(),
            has_begun: false,
            may_begin: false,
        }
    }

    /// The digest of the version that serves.
    fn serving(&self) -> String {
        self.deployment.slot.current().handler.component.digest.hex()
    }

    fn version(&self, digest: &str) -> Option<Arc<Version>> {
        let current = self.deployment.slot.current();
        let mut known = self.prepared.iter().chain([&current]);
        known.find(|version| version.handler.component.digest.hex() == digest).cloned()
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
        if self.prepared.len() >= MAX_PREPARED {
            self.prepared.remove(0);
        }
        self.prepared.push(version);
    }

    fn note_unreadable(&mut self, text: &str, error: &serde_json::Error) {
        if self.unreadable != text {
            let handler = self.deployment.name();
            tracing::error!(alarm = "record_unreadable", handler, "wasmill:deployments cannot be read: {error}");
            text.clone_into(&mut self.unreadable);
        }
    }
}

/// Gets a component, compiles and checks it: beside the work, and from the compiled cache if it is there.
async fn prepare(
    store: Arc<dyn Operate>,
    cache: Option<CompiledCache>,
    current: Arc<Version>,
    digest: String,
    size: u64,
) -> Result<Version, String> {
    let engine = current.handler.component.engine().clone();
    let (like, wanted, known) = (current.clone(), digest.clone(), cache.clone());
    if let Some(version) = beside(&engine, move || like.from_cache(known.as_ref(), &wanted, size)).await? {
        return version.map_err(|error| error.to_string());
    }
    let bytes = store.component(&digest).await.map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or("its component is not kept any more")?;
    let prepared = beside(&engine, move || current.successor(cache.as_ref(), &digest, &bytes)).await?;
    prepared.map_err(|error| error.to_string())
}

/// The result of work on a thread of its own. When the future is dropped, compiling ends, and with it the thread.
pub(crate) async fn beside<T: Send + 'static>(
    engine: &Engine,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (sender, done) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("prepare".to_owned());
    let thread = thread.spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(work());
    });
    let thread = thread.map_err(|error| format!("no thread to prepare it: {error}"))?;
    let mut preparer = Preparer { engine, thread: Some(thread), is_done: false };
    let result = done.await;
    preparer.is_done = true;
    result.map_err(|_| "preparing it ended by a panic: a fault of wasmill".to_owned())
}

/// The thread that prepares; joined on drop.
struct Preparer<'a> {
    engine: &'a Engine,
    thread: Option<JoinHandle<()>>,
    /// It has nothing left to do.
    is_done: bool,
}

impl Drop for Preparer<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.engine.stop_compiling();
        }
        if let Some(thread) = self.thread.take() {
            // One that panicked has left no result, which was noticed.
            let _ = thread.join();
        }
    }
}
