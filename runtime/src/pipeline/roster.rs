//! What a worker serves: looked at by everything that works beside the threads, and changed while it works.
//!
//! What stands on it is only ever replaced as a whole, so that whoever looks sees one state. Handlers are few words here:
//! a change costs no thread, no connection and nothing to those that it does not concern.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::quotas::QuotaWaits;
use super::{Budget, Deployment, Intake, Retention, Stats};
use crate::broker::keys::Namespace;
use crate::broker::redis::Login;
use crate::broker::{BrokerError, Source};
use crate::deploy::Version;
use crate::stats::HandlerStats;
use crate::wasm::LoadError;

/// Changes that may wait for their turn. Whoever asks for more waits to ask.
const MAX_WAITING: usize = 16;

/// A handler that is served.
#[derive(Clone)]
pub struct Member {
    /// What it is.
    pub deployment: Arc<Deployment>,
    /// Its counters.
    pub stats: Arc<HandlerStats>,
    /// What its tenant has left.
    pub budget: Arc<Budget>,
    /// Which thread gets the larger share of its concurrency.
    pub(super) turn: usize,
    /// An operator has paused it.
    paused: Arc<AtomicBool>,
    /// It waits, since its tenant has used up a quota.
    over_quota: Arc<AtomicBool>,
}

impl Member {
    /// Whether an operator has paused it.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Whether the threads begin nothing of it.
    pub(super) fn is_held(&self) -> bool {
        self.is_paused() || self.over_quota.load(Ordering::Relaxed)
    }

    /// Notes whether it waits for its tenant to be within its quotas; says whether that is a change.
    pub(super) fn set_over_quota(&self, is_over: bool) -> bool {
        self.over_quota.swap(is_over, Ordering::Relaxed) != is_over
    }

    /// Notes whether it is paused, and says it.
    pub(super) fn set_paused(&self, is_paused: bool) {
        if self.paused.swap(is_paused, Ordering::Relaxed) == is_paused {
            return;
        }
        let handler = self.deployment.id();
        match is_paused {
            true => tracing::warn!(handler, "the handler is paused"),
            false => tracing::info!(handler, "the handler goes on"),
        }
    }
}

/// What is served of a tenant besides its handlers.
#[derive(Clone)]
struct OfTenant {
    retention: Vec<Retention>,
    intakes: Vec<Arc<Intake>>,
}

/// What is served at one time.
#[derive(Clone, Default)]
pub struct Served {
    members: BTreeMap<Arc<str>, Member>,
    /// The counters of all handlers.
    pub stats: Arc<Stats>,
    /// The streams that are kept short.
    pub retention: Arc<[Retention]>,
    /// The messages that become events.
    pub intakes: Arc<[Arc<Intake>]>,
    /// How often tenants came to wait since they had used up a quota of what there is in Redis.
    pub quota_waits: Arc<QuotaWaits>,
    /// What the tenants have left, by their names. One that has gone is remembered: it may come back.
    budgets: BTreeMap<Arc<str>, Arc<Budget>>,
    namespaces: Vec<(Namespace, Option<Login>)>,
    /// The streams and the intakes of each tenant.
    of_tenants: BTreeMap<Arc<str>, OfTenant>,
    /// Counts the handlers that ever were on it.
    turns: usize,
}

impl Served {
    /// The handlers, by name.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The same without their counters.
    pub fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.members().map(|member| &member.deployment)
    }

    /// Everything that is read, with the handler that it is for.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&Arc<Deployment>, &Arc<Source>)> {
        self.deployments().flat_map(|deployment| deployment.sources.iter().map(move |source| (deployment, source)))
    }

    /// Where the streams of those served lie, each once, with the tenant's user. That of the tenant `default` is always among
    /// them: events may be published for later where no handler is.
    pub(super) fn namespaces(&self) -> &[(Namespace, Option<Login>)] {
        &self.namespaces
    }

    /// The handler that is called so among those of all tenants.
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    /// What the tenants of this worker have left, by their names.
    pub fn budgets(&self) -> &BTreeMap<Arc<str>, Arc<Budget>> {
        &self.budgets
    }

    fn put(&mut self, deployment: Arc<Deployment>) {
        let budget = self.budgets.entry(deployment.tenant.clone()).or_default().clone();
        match self.members.get_mut(&deployment.id) {
            Some(member) => member.deployment = deployment,
            None => {
                let id = deployment.id.clone();
                let (stats, paused, over_quota) = (Arc::default(), Arc::default(), Arc::default());
                self.members.insert(id, Member { deployment, stats, budget, turn: self.turns, paused, over_quota });
                self.turns += 1;
            }
        }
    }

    /// What is served after a change. Counters go on.
    pub(super) fn after(&self, change: Change) -> Served {
        let mut next = self.clone();
        change.removed.iter().for_each(|name| drop(next.members.remove(name)));
        change.handlers.into_iter().for_each(|handler| next.put(handler.deployment));
        let known = |retention: Retention| match self.retention.iter().find(|known| known.key == retention.key) {
            Some(known) => Retention { trimmed: known.trimmed.clone(), ..retention },
            None => retention,
        };
        let retention: Vec<Retention> = change.retention.into_iter().map(known).collect();
        match retention.is_empty() && change.intakes.is_empty() {
            true => drop(next.of_tenants.remove(&change.tenant)),
            false => {
                let of_tenant = OfTenant { retention, intakes: change.intakes };
                next.of_tenants.insert(change.tenant, of_tenant);
            }
        }
        next.retention = next.of_tenants.values().flat_map(|tenant| &tenant.retention).cloned().collect();
        next.intakes = next.of_tenants.values().flat_map(|tenant| &tenant.intakes).cloned().collect();
        let stats = next.members().map(|member| (member.deployment.id().to_owned(), member.stats.clone()));
        next.stats = Arc::new(stats.collect());
        let namespaces = next.deployments().map(|deployment| (deployment.namespace.clone(), deployment.login.clone()));
        let by_prefix = [(Namespace::default(), None)].into_iter().chain(namespaces);
        let by_prefix: BTreeMap<String, (Namespace, Option<Login>)> =
            by_prefix.map(|(namespace, login)| (namespace.prefix().to_owned(), (namespace, login))).collect();
        next.namespaces = by_prefix.into_values().collect();
        next
    }
}

/// A handler that is to be served from now on as it says.
pub struct Wanted {
    /// What it is. If a handler of this name is served already, it has the same slot, and if it is the same object, only
    /// the version changes.
    pub deployment: Arc<Deployment>,
    /// The version to serve; a deployed one keeps its component, and gets the grants, limits and isolation of this one.
    /// `None`: the version stays.
    pub version: Option<Arc<Version>>,
}

/// What is to be served of a tenant from now on.
pub struct Change {
    /// The tenant.
    pub tenant: Arc<str>,
    /// Handlers that are new, or other than before.
    pub handlers: Vec<Wanted>,
    /// Handlers that are not served any more, as they are called among those of all tenants.
    pub removed: Vec<Arc<str>>,
    /// All streams of the tenant that are to be kept short.
    pub retention: Vec<Retention>,
    /// All intakes of the tenant. Those that are there already, as the same objects, are not disturbed.
    pub intakes: Vec<Arc<Intake>>,
}

/// A change that was not made: everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A deployed version may not do any more what it must.
    #[error("handlers.{handler}: {digest}, which was deployed and serves, does not fit: {cause}")]
    Unfit {
        handler: String,
        digest: String,
        #[source]
        cause: LoadError,
    },
    /// A consumer group could not be created.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The worker is shutting down.
    #[error("the worker is shutting down")]
    Ended,
}

/// A change that is asked for.
pub(super) struct Order {
    pub(super) change: Change,
    pub(super) answer: oneshot::Sender<Result<(), ChangeError>>,
}

/// What a worker serves. Cheap to clone.
#[derive(Clone)]
pub struct Roster {
    served: Arc<watch::Sender<Arc<Served>>>,
    orders: mpsc::Sender<Order>,
}

/// The changes that are asked for: with them, [`super::serve`] gets what it serves.
pub struct Orders {
    pub(super) roster: Roster,
    pub(super) queue: mpsc::Receiver<Order>,
}

impl Roster {
    /// Serves what these say from the start, one for each tenant.
    pub fn new(tenants: impl IntoIterator<Item = Change>) -> (Roster, Orders) {
        let served = tenants.into_iter().fold(Served::default(), |served, tenant| served.after(tenant));
        let served = Arc::new(watch::Sender::new(Arc::new(served)));
        let (orders, queue) = mpsc::channel(MAX_WAITING);
        let roster = Roster { served, orders };
        (roster.clone(), Orders { roster, queue })
    }

    /// What is served now.
    pub fn now(&self) -> Arc<Served> {
        self.served.borrow().clone()
    }

    /// Is told whenever that changes.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Served>> {
        self.served.subscribe()
    }

    pub(super) fn replace(&self, served: Served) {
        self.served.send_replace(Arc::new(served));
    }

    /// Changes what is served, all of it or nothing. Returns when versions are exchanged and the threads have been told the
    /// rest; each of them takes it in before it begins its next few deliveries.
    pub async fn change(&self, change: Change) -> Result<(), ChangeError> {
        let (answer, done) = oneshot::channel();
        self.orders.send(Order { change, answer }).await.map_err(|_| ChangeError::Ended)?;
        done.await.map_err(|_| ChangeError::Ended)?
    }
}
