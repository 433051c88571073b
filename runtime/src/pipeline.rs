//! The loop that joins broker and wasm: read, decode, route, schedule, execute, settle.
//!
//! One [`shard`] per core does all of it for its share of each handler. Beside them, on the caller's thread, run the
//! heartbeat, the take-over of dead workers' entries ([`recover`]), the wake-up of idle readers ([`watch`]), the trimming of
//! streams ([`retention`]), the intake of messages ([`intake`]), and looking which version of each handler is to serve
//! ([`rollout`]). All of them look at the [`roster`] for what is served; it changes while they work.

mod batch;
mod brokers;
mod budget;
mod courtesy;
mod dedup;
mod intake;
mod lane;
mod observe;
mod pause;
mod quotas;
mod recover;
mod retention;
mod rollout;
mod roster;
mod run;
mod runs;
mod shard;
mod state;
mod takeover;
mod threads;
mod turns;
mod watch;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::brokers::Brokers;
pub use self::budget::{Budget, Quota};
pub use self::intake::{Intake, IntakeStats};
pub use self::observe::{How, Observer, Run, Seen};
pub use self::quotas::QuotaWaits;
use self::recover::Prepared;
pub use self::retention::Retention;
use self::rollout::Rollouts;
pub(crate) use self::rollout::beside;
pub use self::roster::{Change, ChangeError, Member, Orders, Roster, Served, Wanted};
use self::watch::Watch;
use crate::broker::keys::Namespace;
use crate::broker::memory::MemoryBroker;
use crate::broker::pubsub::PubSub;
use crate::broker::redis::{Login, RedisBroker, RedisSettings, RedisUsers};
use crate::broker::{Broker, BrokerError, Source, keys};
use crate::config::TenantQuotas;
use crate::deploy::{Pinned, PublicKeys, Slot};
use crate::envelope::Envelopes;
use crate::fleet::{HandlerReport, WorkerReport};
use crate::outcome::{Dedup, RetryPolicy};
use crate::readiness::{Phase, Readiness};
use crate::route::Types;
use crate::state::Home;
use crate::stats::HandlerStats;
use crate::wasm::CompiledCache;

/// Batches of a thread that may be on their way at the same time: one is written while the next one is filled.
const MAX_SETTLES: usize = 2;
/// What remains of the drain time for writing and leaving, once handlers are given up.
const LEAVE_TIME: Duration = Duration::from_secs(2);

/// Where the streams are.
#[derive(Clone)]
pub enum Backend {
    /// A Redis server, with the users of tenants.
    Redis(Arc<RedisUsers>),
    /// This process.
    Memory(MemoryBroker),
    /// This process, with a data plane of the caller's own before it, which all threads share.
    Before(Arc<dyn Broker>, MemoryBroker),
}

impl Backend {
    /// A Redis server. Connections of tenants' users live on the runtime that this is called in.
    pub fn redis(settings: RedisSettings) -> Backend {
        Backend::Redis(Arc::new(RedisUsers::new(settings, tokio::runtime::Handle::current())))
    }

    /// A broker with connections of its own, which are opened when they are first needed.
    fn broker(&self) -> Arc<dyn Broker> {
        match self {
            Backend::Redis(users) => Arc::new(RedisBroker::new(users.settings().clone())),
            Backend::Memory(broker) => Arc::new(broker.clone()),
            Backend::Before(broker, _) => broker.clone(),
        }
    }

    /// The same, and those of tenants with a user.
    fn brokers(&self) -> Brokers {
        Brokers { own: self.broker(), users: self.users().cloned() }
    }

    /// The users of tenants, if there can be any.
    pub fn users(&self) -> Option<&Arc<RedisUsers>> {
        if let Backend::Redis(users) = self { Some(users) } else { None }
    }

    /// The same for listening to messages.
    fn pubsub(&self) -> Arc<dyn PubSub> {
        match self {
            Backend::Redis(users) => Arc::new(RedisBroker::new(users.settings().clone())),
            Backend::Memory(broker) | Backend::Before(_, broker) => Arc::new(broker.clone()),
        }
    }
}

/// How entries become events.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The form of the entries of each stream.
    pub envelopes: Envelopes,
    /// Events that do not follow their schema become dead letters.
    pub check_schemas: bool,
}

/// A handler that is ready to serve.
pub struct Deployment {
    /// The tenant that it belongs to.
    pub tenant: Arc<str>,
    /// How much of a thread's time the tenant gets beside others, at least 1.
    pub weight: u32,
    /// What it is called among those of all tenants: see [`Namespace::qualified`].
    pub id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Where its streams lie.
    pub namespace: Namespace,
    /// The Redis user of the tenant, if it has one.
    pub login: Option<Login>,
    /// Code, grants and limits, in the version that serves. It goes on when other settings of the handler change.
    pub slot: Arc<Slot>,
    /// Versions for dead letters that are to run on another one. They go on as well.
    pub pinned: Arc<Pinned>,
    /// The event types that it wants.
    pub types: Types,
    /// What it reads: streams, and its inbox.
    pub sources: Vec<Arc<Source>>,
    /// How failures are tried again.
    pub retry: RetryPolicy,
    /// How long entries are idle under consumers of other programs until they are taken over.
    pub take_over_idle: Duration,
    /// Whether and how it knows events that it has handled before.
    pub dedup: Option<Dedup>,
    /// Where its state lies, and what the tenant may have of it.
    pub state: Arc<Home>,
    /// What the marks of such events begin with, see [`keys::mark`].
    pub marks: Arc<str>,
    /// The Redis key of its dead-letter stream.
    pub dead_key: Arc<str>,
    /// The most deliveries of it that this worker runs at the same time. At least 1.
    pub concurrency: usize,
    /// What all handlers of the tenant may use together; `None`: no bounds.
    pub quotas: Option<Arc<TenantQuotas>>,
    /// How entries become events.
    pub reading: Reading,
}

impl Deployment {
    /// What the handler is called among those of all tenants.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of the handler.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What tells this worker from others.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Unique per process start.
    pub id: Arc<str>,
    /// How often it says that it is alive.
    pub heartbeat: Duration,
    /// How long it is taken to be alive after that.
    pub heartbeat_ttl: Duration,
    /// How long shutting down may take.
    pub drain_timeout: Duration,
    /// Threads that run handlers.
    pub threads: usize,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// How often it trims streams.
    pub retention_interval: Duration,
    /// Where compiled components are kept.
    pub cache: Option<CompiledCache>,
    /// By whom components must be signed that are deployed to it.
    pub keys: PublicKeys,
    /// Who is told of each delivery.
    pub observer: Option<Arc<dyn Observer>>,
}

/// What a thread is told.
#[derive(Clone)]
enum Command {
    /// The stream has something new for this group.
    Wake(Arc<Source>),
    /// Serve the handler as this says from now on.
    Serve { deployment: Arc<Deployment>, stats: Arc<HandlerStats>, budget: Arc<Budget>, share: Share, paused: bool },
    /// Read nothing more of the handler, and finish what has been read.
    Leave { handler: Arc<str> },
    /// Entries of the handler are parked: see whether their time has come.
    Due { handler: Arc<str>, source: Arc<Source> },
    /// Take the entries that are pending under a consumer of a dead worker or of another program.
    Inherit { handler: Arc<str>, source: Arc<Source>, from: Heirloom },
    /// Begin nothing of this handler any more, or go on with it.
    Pause { handler: Arc<str>, paused: bool },
    /// Finish what has been read, by then at the latest.
    Drain { until: Instant },
}

/// What a thread may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// Deliveries of the handler.
    handler: usize,
    /// Deliveries of all handlers of its tenant.
    tenant: usize,
}

/// A consumer whose entries are to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heirloom {
    consumer: String,
    /// It belongs to another program and may be alive: only what has been idle for so long is taken.
    min_idle: Option<Duration>,
}

/// The counters of all handlers, by what they are called among those of all tenants.
pub type Stats = BTreeMap<String, Arc<HandlerStats>>;

/// The pipeline cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    /// A thread ended by a panic: a fault of wasmill.
    #[error("a worker thread has panicked; this is a fault of wasmill, please report it")]
    Panicked,
    /// The server cannot be worked with.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Serves what is on the roster until `shutdown` is done, then drains. `readiness` says how far it is. The broker may be
/// absent: that is waited for. Changes that are asked for before it is ready are made then.
pub async fn serve(
    worker: Worker,
    backend: Backend,
    mut orders: Orders,
    readiness: &Readiness,
    shutdown: impl Future<Output = ()>,
) -> Result<(), PipelineError> {
    tokio::pin!(shutdown);
    let (worker, roster) = (Arc::new(worker), orders.roster.clone());
    let Prepared { brokers, operate, paused } = tokio::select! {
        ready = recover::set_up(&worker, &backend, &roster, readiness) => ready?,
        () = &mut shutdown => return Ok(()),
    };
    let broker = brokers.own.clone();
    let mut rollouts = Rollouts::new(operate.clone(), &worker, roster.now().members());
    // It has the broker, and takes no events yet.
    readiness.set(Phase::Starting);
    let not_ready_yet = Readiness::default();
    tokio::select! {
        () = rollouts.catch_up() => {}
        // A rollout needs workers: if what is deployed cannot be prepared any more, another version can be deployed.
        () = recover::beat(&*broker, &worker, &roster, &not_ready_yet) => {}
        () = &mut shutdown => {
            resign(&*broker, &worker).await;
            return Ok(());
        }
    }
    let watch = Arc::new(Watch::default());
    let (threads, mut shards) = threads::start(&worker, &backend, &watch)?;
    for member in roster.now().members() {
        member.set_paused(paused.contains(member.deployment.id()));
        threads.serve(member);
    }
    readiness.set(Phase::Ready);
    tracing::info!("ready");
    let pubsub = backend.pubsub();
    let panicked = tokio::select! {
        () = &mut shutdown => false,
        () = recover::beat(&*broker, &worker, &roster, readiness) => false,
        () = takeover::run(&brokers, &worker, &roster, &threads) => false,
        () = recover::find_parked(&*broker, &roster, &threads) => false,
        () = recover::move_delayed(&brokers, &roster) => false,
        () = rollouts.follow(&brokers, &mut orders, &threads) => false,
        () = pause::follow(&*broker, &roster, &threads) => false,
        () = quotas::follow(&*operate, &roster, &threads) => false,
        () = watch.run(&*broker) => false,
        () = retention::run(&brokers, &operate, &roster, worker.retention_interval) => false,
        () = intake::run(&*pubsub, &roster, &worker) => false,
        () = close_idle(backend.users()) => false,
        () = threads::any_ended(&mut shards) => true,
    };
    // Whoever asks for a change is told that it is too late.
    drop(orders);
    readiness.set(Phase::Draining);
    tracing::info!("draining");
    let until = Instant::now() + worker.drain_timeout.saturating_sub(LEAVE_TIME);
    // Leases that cannot be given back end by themselves.
    let leave = tokio::time::timeout(LEAVE_TIME, intake::leave(&*pubsub, &roster, &worker));
    tokio::select! {
        _ = async { tokio::join!(threads::drain(&mut shards, until), leave) } => {}
        // Others must not take over what is still being finished.
        () = recover::beat(&*broker, &worker, &roster, readiness) => {}
        () = tokio::time::sleep(worker.drain_timeout) => tracing::warn!("not everything could be drained in time"),
    }
    resign(&*broker, &worker).await;
    if threads::join(shards) || panicked { Err(PipelineError::Panicked) } else { Ok(()) }
}

/// Closes connections of tenants' users that nobody needs, until the future is dropped.
async fn close_idle(users: Option<&Arc<RedisUsers>>) {
    match users {
        Some(users) => users.close_idle().await,
        None => std::future::pending().await,
    }
}

/// Says that the worker is gone.
async fn resign(broker: &dyn Broker, worker: &Worker) {
    if !matches!(tokio::time::timeout(LEAVE_TIME, broker.resign(&worker.id)).await, Ok(Ok(()))) {
        tracing::debug!("cannot resign: the heartbeat will end by itself");
    }
}

/// What this worker says of itself.
fn report(worker: &Worker, served: &Served) -> WorkerReport {
    let handlers = served.members().map(|member| {
        let deployment = &member.deployment;
        let report = HandlerReport::new(&deployment.slot.current().digest, &member.stats);
        (deployment.id().to_owned(), HandlerReport { pinned: deployment.pinned.states(), ..report })
    });
    WorkerReport {
        worker: worker.id.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        started_ms: worker.started_ms,
        threads: worker.threads,
        handlers: handlers.collect(),
    }
}

/// The most instances that exist at the same time on a worker, those that wait for reuse included.
pub const MAX_INSTANCES: usize = 4000;

/// A name for this start of this process, as part of consumer names: unique, and telling where it runs.
pub fn new_worker_id() -> Arc<str> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String =
        host.chars().filter(|character| character.is_ascii_alphanumeric() || *character == '-').take(40).collect();
    format!("{}{host}-{}-{:08x}", keys::CONSUMER_PREFIX, std::process::id(), rand::random::<u32>()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_ids_are_recognised_as_ours() {
        let id = new_worker_id();
        assert_eq!(keys::worker_of(&format!("{id}.0")), Some(&*id));
        assert_ne!(id, new_worker_id());
    }
}
