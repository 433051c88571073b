//! Setting up, staying alive, and looking for what became due meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::brokers::Brokers;
use super::roster::{Roster, Served};
use super::shard::backoff;
use super::threads::Threads;
use super::{Backend, Command, Deployment, PipelineError, Worker};
use crate::broker::redis::RedisBroker;
use crate::broker::{Broker, BrokerError, Operate, Refusal, Source};
use crate::readiness::{Phase, Readiness};

/// Delayed events that are moved in one step.
const MAX_MOVED: usize = 100;
/// What a worker says of itself in the long run, in bytes a second. A report on 200 handlers is made with each heartbeat, one on
/// a thousand every ten seconds.
const REPORT_RATE: f64 = 32.0 * 1024.0;
/// The longest time from one report to the next.
const REPORT_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked where entries are parked. A retry that was parked by a worker that has died is made at most so much
/// later than it was due, while threads have room for it.
const PARKED_POLL: Duration = Duration::from_secs(5);
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
    create_groups(&brokers, served.deployments()).await?;
    let paused = brokers.own.paused().await?.into_iter().collect();
    Ok(Prepared { brokers, operate, paused })
}

/// Creates the consumer groups of handlers that are not there. What is refused to the user of a tenant is no matter of the
/// others: the readers try again.
pub(super) async fn create_groups(
    brokers: &Brokers,
    deployments: impl Iterator<Item = &Arc<Deployment>>,
) -> Result<(), BrokerError> {
    let (of_users, of_all): (Vec<_>, Vec<_>) = deployments.partition(|deployment| deployment.login.is_some());
    let sources: Vec<_> = of_all.iter().flat_map(|deployment| &deployment.sources).cloned().collect();
    create(&*brokers.own, &sources).await?;
    for deployment in of_users {
        let broker = brokers.of(deployment.login.as_ref());
        match (create(&*broker, &deployment.sources).await, &deployment.login) {
            (Err(error @ BrokerError::Refused { .. }), Some(login)) => {
                let (tenant, user) = (&*login.tenant, &*login.username);
                tracing::error!(alarm = "user_refused", tenant, user, "the tenant's user cannot work: {error}");
            }
            (result, _) => result?,
        }
    }
    Ok(())
}

async fn create(broker: &dyn Broker, sources: &[Arc<Source>]) -> Result<(), BrokerError> {
    let created = broker.create_groups(sources).await?;
    for (source, _) in sources.iter().zip(created).filter(|(_, is_new)| *is_new) {
        tracing::info!(stream = source.stream, group = &*source.group, "consumer group created");
    }
    Ok(())
}

/// Says that the worker is alive, until the future is dropped.
pub(super) async fn beat(broker: &dyn Broker, worker: &Worker, roster: &Roster, readiness: &Readiness) {
    let mut failures = 0u32;
    let mut said = None;
    loop {
        match beat_once(broker, worker, roster, &mut said).await {
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

/// The last report.
struct Said {
    served: Arc<Served>,
    bytes: usize,
    when: Instant,
}

impl Said {
    /// Whether another one is to be made: at once if other handlers are served, and otherwise the less often the longer
    /// reports are.
    fn is_old(&self, served: &Arc<Served>) -> bool {
        let pause = Duration::from_secs_f64(self.bytes as f64 / REPORT_RATE).min(REPORT_PAUSE);
        !Arc::ptr_eq(served, &self.served) || self.when.elapsed() >= pause
    }
}

async fn beat_once(
    broker: &dyn Broker,
    worker: &Worker,
    roster: &Roster,
    said: &mut Option<Said>,
) -> Result<(), BrokerError> {
    let served = roster.now();
    let is_new = said.as_ref().is_none_or(|said| said.is_old(&served));
    if !is_new && broker.stay_alive(&worker.id, worker.heartbeat_ttl).await? {
        return Ok(());
    }
    let report = serde_json::to_string(&super::report(worker, &served)).expect("a report has nothing that JSON lacks");
    broker.heartbeat(&worker.id, &report, worker.heartbeat_ttl).await?;
    *said = Some(Said { served, bytes: report.len(), when: Instant::now() });
    Ok(())
}

/// Has threads look for parked entries that are due, wherever there are any: whoever parked them may be gone. Runs until the
/// future is dropped.
pub(super) async fn find_parked(broker: &dyn Broker, roster: &Roster, threads: &Threads) {
    loop {
        let served = roster.now();
        let sets: Vec<Arc<str>> = served.sources().map(|(_, source)| source.due_key.clone()).collect();
        match broker.filled(&sets).await {
            Ok(filled) => {
                for ((deployment, source), _) in served.sources().zip(filled).filter(|(_, is_filled)| *is_filled) {
                    let (handler, source) = (deployment.id.clone(), source.clone());
                    threads.tell_one_that_has(deployment, Command::Due { handler, source });
                }
            }
            Err(error) => tracing::debug!("cannot look for parked events: {error}"),
        }
        tokio::time::sleep(PARKED_POLL).await;
    }
}

/// Moves delayed events into their streams when their time has come, until the future is dropped.
pub(super) async fn move_delayed(brokers: &Brokers, roster: &Roster) {
    let mut failures: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    loop {
        let mut pause = DELAYED_POLL;
        let served = roster.now();
        failures.retain(|tenant, _| served.namespaces().iter().any(|(namespace, _)| namespace.tenant() == tenant));
        let sets: Vec<Arc<str>> = served.namespaces().iter().map(|(namespace, _)| namespace.delayed()).collect();
        // If that cannot be seen, looking for the events says why.
        let filled = brokers.own.filled(&sets).await.unwrap_or_else(|_| vec![true; sets.len()]);
        let filled = served.namespaces().iter().zip(filled).filter(|(_, is_filled)| *is_filled);
        for ((namespace, login), _) in filled {
            match brokers.of(login.as_ref()).move_delayed(namespace, MAX_MOVED).await {
                Ok(moved) => {
                    failures.remove(namespace.tenant());
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
                    let tenant = namespace.tenant();
                    let failures = failures.entry(tenant.clone()).or_default();
                    *failures = failures.saturating_add(1);
                    if failures.is_power_of_two() {
                        tracing::warn!(tenant = &**tenant, "cannot look for delayed events: {error}");
                    }
                    // What is wrong with the user of one tenant puts off the events of no other.
                    if login.is_none() {
                        pause = backoff(*failures).max(DELAYED_POLL);
                    }
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reports_are_made_less_often_and_at_once_if_other_handlers_are_served() {
        let served: Arc<Served> = Arc::default();
        let said = |bytes, seconds| {
            let when = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the machine runs for longer");
            Said { served: served.clone(), bytes, when }
        };
        assert!(said(1000, 1).is_old(&served));
        assert!(!said(320 << 10, 9).is_old(&served));
        assert!(said(320 << 10, 10).is_old(&served));
        assert!(said(100 << 20, 30).is_old(&served));
        assert!(said(320 << 10, 0).is_old(&Arc::default()));
    }
}
