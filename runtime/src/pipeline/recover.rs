//! Staying alive, and taking over from those who are not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::brokers::Brokers;
use super::roster::Roster;
use super::shard::backoff;
use super::threads::Threads;
use super::{Backend, Command, Deployment, Heirloom, PipelineError, Worker};
use crate::broker::redis::RedisBroker;
use crate::broker::{Broker, BrokerError, Operate, Refusal, Source, keys};
use crate::fleet::WorkerReport;
use crate::readiness::{Phase, Readiness};

/// Delayed events that are moved in one step.
const MAX_MOVED: usize = 100;
/// How often delayed events are looked for that have been asked for meanwhile.
const DELAYED_POLL: Duration = Duration::from_secs(1);

/// The broker.
pub(super) struct Prepared {
    /// For events.
    pub(super) brokers: Brokers,
    /// For everything else; by the same connection, if there is one.
    pub(super) operate: Arc<dyn Operate>,
    /// The handlers that are paused.
    pub(super) paused: BTreeSet<String>,
}

/// Waits for the broker, checks it, says that this worker is alive, and creates the consumer groups.
pub(super) async fn set_up(
    worker: &Worker,
    backend: &Backend,
    roster: &Roster,
    readiness: &Readiness,
) -> Result<Prepared, PipelineError> {
    let mut failures = 0;
    loop {
        match try_set_up(worker, backend, roster).await {
            Ok(prepared) => return Ok(prepared),
            Err(error) if is_permanent(&error) => return Err(error.into()),
            Err(error) => {
                failures += 1;
                let pause = backoff(failures);
                tracing::warn!(?pause, "waiting for Redis: {error}");
                readiness.set(Phase::WaitingForRedis { why: error.to_string() });
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Whether waiting cannot help.
fn is_permanent(error: &BrokerError) -> bool {
    let BrokerError::Refused { refusal, .. } = error else { return false };
    matches!(
        refusal,
        Refusal::NotAuthenticated
            | Refusal::NoPermission
            | Refusal::VersionTooOld
            | Refusal::EvictionPolicy
            | Refusal::WrongType
    )
}

async fn try_set_up(worker: &Worker, backend: &Backend, roster: &Roster) -> Result<Prepared, BrokerError> {
    let (broker, operate): (Arc<dyn Broker>, Arc<dyn Operate>) = match backend {
        Backend::Redis(users) => {
            let redis = Arc::new(RedisBroker::connect(users.settings().clone()).await?);
            for warning in redis.check_server().await? {
                tracing::warn!("{}", warning.0);
            }
            (redis.clone(), redis)
        }
        Backend::Memory(memory) | Backend::Before(_, memory) => (backend.broker(), Arc::new(memory.clone())),
    };
    broker.heartbeat(&worker.id, "{}", worker.heartbeat_ttl).await?;
    let served = roster.now();
    let brokers = Brokers { own: broker, users: backend.users().cloned() };
    for deployment in served.deployments() {
        create_groups(&brokers, deployment).await?;
    }
    let paused = brokers.own.paused().await?.into_iter().collect();
    Ok(Prepared { brokers, operate, paused })
}

/// Creates the consumer groups of a handler that are not there. What is refused to the user of a tenant is no matter of the
/// others: the readers try again.
pub(super) async fn create_groups(brokers: &Brokers, deployment: &Deployment) -> Result<(), BrokerError> {
    let broker = brokers.of(deployment.login.as_ref());
    for source in &deployment.sources {
        match (broker.create_group(source).await, &deployment.login) {
            (Ok(true), _) => {
                tracing::info!(stream = source.stream, group = &*source.group, "consumer group created");
            }
            (Ok(false), _) => {}
            (Err(error @ BrokerError::Refused { .. }), Some(login)) => {
                let (tenant, user) = (&*login.tenant, &*login.username);
                tracing::error!(alarm = "user_refused", tenant, user, "the tenant's user cannot work: {error}");
                return Ok(());
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(())
}

/// Says that the worker is alive, until the future is dropped.
pub(super) async fn beat(
    broker: &dyn Broker,
    worker: &Worker,
    report: impl Fn() -> WorkerReport,
    readiness: &Readiness,
) {
    let mut failures = 0u32;
    loop {
        let report = serde_json::to_string(&report()).expect("a report has nothing that JSON lacks");
        match broker.heartbeat(&worker.id, &report, worker.heartbeat_ttl).await {
            Ok(()) => {
                failures = 0;
                readiness.broker_answers();
            }
            Err(error) => {
                failures += 1;
                readiness.set(Phase::WaitingForRedis { why: error.to_string() });
                if failures.is_power_of_two() {
                    tracing::warn!("no heartbeat: {error}");
                }
            }
        }
        tokio::time::sleep(worker.heartbeat).await;
    }
}

/// Moves delayed events into their streams when their time has come, until the future is dropped.
pub(super) async fn move_delayed(brokers: &Brokers, roster: &Roster) {
    let mut failures = 0u32;
    loop {
        let mut pause = DELAYED_POLL;
        for (namespace, login) in roster.now().namespaces() {
            match brokers.of(login.as_ref()).move_delayed(namespace, MAX_MOVED).await {
                Ok(moved) => {
                    failures = 0;
                    let reasons: BTreeSet<&String> = moved.refused.iter().collect();
                    for why in reasons {
                        tracing::error!(
                            alarm = "delayed_refused",
                            "a delayed event cannot be moved to its stream: {why}"
                        );
                    }
                    pause = moved.next_due.map_or(pause, |next| next.min(pause));
                }
                Err(error) => {
                    failures += 1;
                    if failures.is_power_of_two() {
                        tracing::warn!("cannot look for delayed events: {error}");
                    }
                    pause = backoff(failures).max(DELAYED_POLL);
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Looks for dead workers and has their entries taken over, until the future is dropped.
pub(super) async fn take_over(brokers: &Brokers, worker: &Worker, roster: &Roster, threads: &Threads) {
    loop {
        // Spread over the workers, so that they do not all look at the same moment.
        tokio::time::sleep(worker.heartbeat.mul_f64(0.5 + rand::random::<f64>())).await;
        if let Err(error) = look_for_dead(brokers, worker, roster, threads).await {
            tracing::debug!("cannot look for dead workers: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn look_for_dead(
    brokers: &Brokers,
    worker: &Worker,
    roster: &Roster,
    threads: &Threads,
) -> Result<(), BrokerError> {
    let served = roster.now();
    let mut found = Vec::new();
    for deployment in served.deployments() {
        for source in &deployment.sources {
            let consumers = match brokers.own.consumers(source).await {
                Ok(consumers) => consumers,
                // The readers notice it too, and create the group again.
                Err(BrokerError::NoGroup { .. }) => continue,
                // One stream that cannot be read is no reason to leave the others alone.
                Err(error @ BrokerError::Unreachable { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(stream = source.stream, "cannot look for dead workers: {error}");
                    continue;
                }
            };
            for consumer in consumers {
                match keys::worker_of(&consumer.name) {
                    Some(owner) if owner == &*worker.id => {}
                    Some(owner) => found.push((deployment, source, owner.to_owned(), consumer)),
                    // Nobody says whether other programs live: what has been idle for long is taken from them.
                    None if consumer.name == keys::PARKED_CONSUMER || consumer.pending == 0 => {}
                    None => {
                        let from = Heirloom { consumer: consumer.name, min_idle: Some(deployment.take_over_idle) };
                        inherit(deployment, source, from, threads);
                    }
                }
            }
        }
    }
    let owners: Vec<String> =
        found.iter().map(|(_, _, owner, _)| owner.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    let alive = brokers.own.alive(&owners).await?;
    let dead: BTreeSet<&String> =
        owners.iter().zip(alive).filter(|(_, alive)| !alive).map(|(owner, _)| owner).collect();
    for (deployment, source, owner, consumer) in &found {
        if !dead.contains(owner) {
            continue;
        }
        if consumer.pending == 0 {
            brokers.of(deployment.login.as_ref()).remove_consumer(source, &consumer.name).await?;
            continue;
        }
        tracing::info!(
            handler = deployment.id(),
            worker = owner,
            pending = consumer.pending,
            "taking over the events of a dead worker"
        );
        inherit(deployment, source, Heirloom { consumer: consumer.name.clone(), min_idle: None }, threads);
    }
    Ok(())
}

/// Has a thread take the entries of a consumer.
fn inherit(deployment: &Deployment, source: &Arc<Source>, from: Heirloom, threads: &Threads) {
    let command = Command::Inherit { handler: deployment.id.clone(), source: source.clone(), from };
    // A handler with little concurrency is not on every thread: those that do not have it ignore the command.
    match deployment.concurrency < threads.count() {
        true => threads.tell_all(&command),
        false => threads.tell_any(command),
    }
}
