//! Reading the configuration again while the worker runs.
//!
//! It goes as a deployment goes. Everything that can fail (reading, checking, compiling) is done beside the work, on a thread
//! of its own; then what is served changes in one step ([`crate::pipeline::Roster::change`]). A fault anywhere leaves
//! everything as it was. What is the same as before is not touched.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use utoipa::ToSchema;

use crate::access::{Actor, Tokens};
use crate::app::{self, BuildError, ComponentFault};
use crate::audit;
use crate::broker::Operate;
use crate::broker::keys::DEFAULT_TENANT;
use crate::broker::redis::RedisUsers;
use crate::config::{Changes, Config, ConfigErrors, ResolvedHandler, TokenError};
use crate::deploy::{self, PublicKeys, Slot, Version};
use crate::envelope::Envelopes;
use crate::ops::{Operator, Operators, audit as audit_log};
use crate::pipeline::{Change, ChangeError, Deployment, Intake, Roster, Wanted, beside};
use crate::schema::Schemas;
use crate::telemetry::{self, InvalidLevel};
use crate::wasm::{CompiledCache, Engine};

/// Those who wait for a reload at the same time. Whoever asks for one besides needs no other.
const MAX_WAITING: usize = 64;

/// What a reload has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct ReloadReport {
    /// What is other than before: `handlers.NAME`, `intake.NAME`, `streams.NAME`, `schemas`, `log.level`; of a tenant with
    /// `tenants.TENANT.` before it.
    pub changed: Vec<String>,
    /// Handlers and intakes that are new.
    pub added: Vec<String>,
    /// Handlers and intakes that are gone.
    pub removed: Vec<String>,
    /// How many handlers were not touched.
    pub unchanged: usize,
    /// Settings that are other than before, and stay without effect until the worker is started again.
    pub needs_restart: Vec<String>,
    /// Tenants that stay as they were, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faulty: BTreeMap<String, String>,
}

/// Nothing was reloaded: everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The configuration has faults.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// There is nothing in it to do.
    #[error("neither handlers nor intakes are configured: to stop the worker, send it SIGTERM")]
    Empty,
    /// `log.level`.
    #[error("log.level: {0}")]
    Level(#[from] InvalidLevel),
    /// Something that it names cannot be used.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The tokens of the HTTP API cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The keys of a tenant would be those of another one.
    #[error(
        "prefix: `{prefix}` meets `{theirs}`, which tenants.{other} has as it runs; choose another one, or reload \
         again when that one has given it up"
    )]
    Prefix { prefix: String, theirs: String, other: String },
    /// The pipeline cannot do it.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// It could not be prepared at all.
    #[error("{0}")]
    Unable(String),
    /// The worker is shutting down.
    #[error("the worker is shutting down")]
    Ended,
}

/// How a reload has ended, for all who waited for it.
type Outcome = Result<ReloadReport, Arc<ReloadError>>;

/// Asks for reloads. Cheap to clone.
#[derive(Clone)]
pub struct Reload(mpsc::Sender<Asked>);

/// Somebody asks for a reload.
struct Asked {
    by: Actor,
    /// Who waits for it.
    answer: Option<oneshot::Sender<Outcome>>,
}

impl Reload {
    /// Reloads for somebody, after the reload that is under way if there is one. Goes on when the future is dropped.
    pub async fn now(&self, by: Actor) -> Outcome {
        let ended = || Arc::new(ReloadError::Ended);
        let (answer, done) = oneshot::channel();
        self.0.send(Asked { by, answer: Some(answer) }).await.map_err(|_| ended())?;
        done.await.map_err(|_| ended())?
    }

    /// The same for one who does not wait.
    pub fn ask(&self, by: Actor) {
        // If it is full, a reload is to come anyway.
        let _ = self.0.try_send(Asked { by, answer: None });
    }
}

/// Reads a configuration.
pub type Read = Arc<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>;

/// What a reload works with.
pub struct Parts {
    /// Reads the configuration, each time anew.
    pub read: Read,
    /// Runs the components.
    pub engine: Engine,
    /// Keeps compiled ones.
    pub cache: Option<CompiledCache>,
    /// By whom they must be signed.
    pub keys: PublicKeys,
    /// What is served.
    pub roster: Roster,
    /// The broker of the operators.
    pub broker: Arc<dyn Operate>,
    /// Where those look for the tokens that let in.
    pub tokens: watch::Sender<Arc<Tokens>>,
    /// The Redis users of tenants.
    pub users: Option<Arc<RedisUsers>>,
}

/// Does the reloads, one at a time.
pub struct Reloader {
    parts: Arc<Parts>,
    running: Arc<Running>,
    operators: watch::Sender<Operators>,
    asked: mpsc::Receiver<Asked>,
}

/// What runs.
#[derive(Clone)]
struct Running {
    config: Config,
    /// What each tenant has, by its name.
    tenants: BTreeMap<String, Arc<RunningTenant>>,
}

/// What runs of one tenant.
#[derive(Default)]
struct RunningTenant {
    /// What it has of the configuration.
    config: Config,
    schemas: Arc<Schemas>,
    handlers: BTreeMap<String, Known>,
}

/// A handler that runs.
#[derive(Clone)]
struct Known {
    deployment: Arc<Deployment>,
    /// What it is by the configuration. What serves may have been deployed.
    configured: Arc<Version>,
}

/// What is to run.
struct Plan {
    config: Config,
    /// What changes, that of `default` first.
    tenants: Vec<TenantPlan>,
    report: ReloadReport,
    sets_level: bool,
    tokens: Tokens,
}

/// What is to run of one tenant.
struct TenantPlan {
    name: String,
    change: Change,
    /// `None`: the tenant is gone.
    next: Option<RunningTenant>,
    report: ReloadReport,
}

impl Reloader {
    /// Begins with what `config` says and is on the roster; nothing was deployed yet. Also gives what asks for reloads, and
    /// the operators by the configuration that holds.
    pub fn new(
        parts: Parts,
        config: Config,
        schemas: &BTreeMap<String, Arc<Schemas>>,
    ) -> (Reloader, Reload, watch::Receiver<Operators>) {
        let served = parts.roster.now();
        let running = |own: Config| {
            let known = own.handlers.keys().filter_map(|handler| {
                let member = served.member(&own.tenant.namespace.qualified(handler))?;
                let (deployment, configured) = (member.deployment.clone(), member.deployment.slot.current());
                Some((handler.clone(), Known { deployment, configured }))
            });
            let (handlers, schemas) = (known.collect(), schemas.get(&own.tenant.name).cloned().unwrap_or_default());
            (own.tenant.name.clone(), Arc::new(RunningTenant { handlers, schemas, config: own }))
        };
        let tenants: BTreeMap<_, _> = config.of_all_tenants().map(running).collect();
        let operators = tenants.iter().map(|(name, tenant)| (name.clone(), tenant.operator(&parts)));
        let (operators, receiver) = watch::channel(Operators::new(operators.collect()));
        let (asks, asked) = mpsc::channel(MAX_WAITING);
        let running = Arc::new(Running { config, tenants });
        (Reloader { parts: Arc::new(parts), running, operators, asked }, Reload(asks), receiver)
    }

    /// Reloads whenever that is asked for, until the future is dropped. What is being compiled then is given up.
    pub async fn run(mut self) {
        while let Some(first) = self.asked.recv().await {
            // All who have asked by now get the same answer.
            let mut waiting = vec![first];
            while let Ok(other) = self.asked.try_recv() {
                waiting.push(other);
            }
            let outcome = self.audited(&waiting).await.map_err(Arc::new);
            tell(&outcome);
            for answer in waiting.into_iter().filter_map(|asked| asked.answer) {
                // Whoever asked may have gone.
                let _ = answer.send(outcome.clone());
            }
        }
        std::future::pending().await
    }

    /// Reloads, and writes down who asked for it. A reload changes this process alone, and may be what gets its Redis going
    /// again: it is done even if nothing can be written.
    async fn audited(&mut self, waiting: &[Asked]) -> Result<ReloadReport, ReloadError> {
        let broker = self.parts.broker.clone();
        let mut actors: Vec<&Actor> = Vec::new();
        for Asked { by, .. } in waiting {
            if !actors.contains(&by) {
                actors.push(by);
            }
        }
        let (tenant, handler, what) = (DEFAULT_TENANT.to_owned(), String::new(), String::new());
        let change = audit::Change { verb: audit::Verb::Reload, tenant, handler, what };
        let mut begun = Vec::with_capacity(actors.len());
        for actor in actors {
            let asked = audit_log::begin(&*broker, actor, &change).await;
            begun.push((actor, asked.inspect_err(audit_log::lost).ok()));
        }
        let result = self.reload().await;
        let ended = match &result {
            Ok(report) => Ok(told(report)),
            Err(error) => Err(error.to_string()),
        };
        for (actor, asked) in begun {
            audit_log::end(&*broker, actor, &change, asked, ended.clone()).await;
        }
        result
    }

    async fn reload(&mut self) -> Result<ReloadReport, ReloadError> {
        let (parts, running) = (self.parts.clone(), self.running.clone());
        let plan = beside(&self.parts.engine, move || parts.plan(&running)).await.map_err(ReloadError::Unable)??;
        let Plan { config, tenants, mut report, sets_level, mut tokens } = plan;
        let mut next = Running { config, tenants: self.running.tenants.clone() };
        for TenantPlan { name, change, next: tenant, report: own } in tenants {
            match self.parts.roster.change(change).await {
                Ok(()) => report.add(&name, own),
                // One that cannot be served as it is to be is no matter of the others.
                Err(error) if name != DEFAULT_TENANT && !matches!(error, ChangeError::Ended) => {
                    next.keep(&self.running, &name);
                    tokens.keep_of(&name, &self.parts.tokens.borrow());
                    report.faulty.insert(name, error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            match tenant {
                Some(tenant) => next.tenants.insert(name, Arc::new(tenant)),
                None => next.tenants.remove(&name),
            };
        }
        // It was checked before: what is served has changed, and there is no way back from here.
        if sets_level && let Err(error) = telemetry::set_level(&next.config.log) {
            tracing::error!("log.level stays as it was: {error}");
        }
        let operators = next.tenants.iter().map(|(name, tenant)| {
            let known = self.running.tenants.get(name).filter(|known| Arc::ptr_eq(known, tenant));
            let known = known.and_then(|_| self.operators.borrow().get(name).cloned());
            (name.clone(), known.unwrap_or_else(|| tenant.operator(&self.parts)))
        });
        let operators = Operators::new(operators.collect());
        self.operators.send_replace(operators);
        self.parts.tokens.send_replace(Arc::new(tokens));
        self.running = Arc::new(next);
        report.sort();
        Ok(report)
    }
}

impl Running {
    /// Refuses a tenant the keys that another one has as it runs: that one may have to stay as it is.
    fn check_prefix(&self, next: &Config, name: &str) -> Result<(), ReloadError> {
        let Some(prefix) = next.tenants.get(name).map(|tenant| tenant.prefix(name)) else { return Ok(()) };
        if self.config.tenants.get(name).is_some_and(|running| running.prefix(name) == prefix) {
            return Ok(());
        }
        let is_staying = |other: &str| other != name && next.tenants.contains_key(other);
        let staying = self.config.tenants.iter().filter(|(other, _)| is_staying(other));
        let mut prefixes = staying.map(|(other, tenant)| (other.clone(), tenant.prefix(other)));
        let meets = |theirs: &str| prefix.starts_with(theirs) || theirs.starts_with(&prefix);
        match prefixes.find(|(_, theirs)| meets(theirs)) {
            Some((other, theirs)) => Err(ReloadError::Prefix { prefix, theirs, other }),
            None => Ok(()),
        }
    }

    /// Goes on with a tenant as it was before.
    fn keep(&mut self, before: &Running, name: &str) {
        match before.config.tenants.get(name) {
            Some(tenant) => drop(self.config.tenants.insert(name.to_owned(), tenant.clone())),
            None => drop(self.config.tenants.remove(name)),
        }
    }
}

impl RunningTenant {
    fn operator(&self, parts: &Parts) -> Operator {
        let broker = app::operate(&self.config, &parts.broker, parts.users.as_ref());
        Operator::new(broker, &self.config, self.schemas.clone())
    }
}

impl ReloadReport {
    /// Adds what was done for a tenant.
    fn add(&mut self, tenant: &str, own: ReloadReport) {
        let named = |names: Vec<String>| match tenant {
            DEFAULT_TENANT => names,
            _ => names.into_iter().map(|name| format!("tenants.{tenant}.{name}")).collect(),
        };
        self.added.extend(named(own.added));
        self.changed.extend(named(own.changed));
        self.removed.extend(named(own.removed));
        self.unchanged += own.unchanged;
    }

    fn sort(&mut self) {
        for names in [&mut self.added, &mut self.changed, &mut self.removed] {
            names.sort();
        }
    }
}

impl Parts {
    /// Reads, checks and compiles. Blocks the thread.
    fn plan(&self, running: &Running) -> Result<Plan, ReloadError> {
        let wanted = (self.read)()?;
        if !wanted.is_anything_served() {
            return Err(ReloadError::Empty);
        }
        telemetry::check_level(&wanted.log)?;
        let Changes { log_level, needs_restart, .. } = Changes::between(&running.config, &wanted);
        let needs_restart = needs_restart.into_iter().collect();
        let changed = if log_level { vec!["log.level".to_owned()] } else { Vec::new() };
        let mut report = ReloadReport { changed, needs_restart, ..ReloadReport::default() };
        let mut next = Running { config: running.config.taking_over(wanted), tenants: BTreeMap::new() };
        for faulty in next.config.faulty_tenants.clone() {
            next.keep(running, &faulty.name);
            report.faulty.insert(faulty.name, faulty.faults.to_string());
        }
        let names: Vec<String> = next.config.tenant_names().map(str::to_owned).collect();
        let is_staying = |tenant: &str| tenant == DEFAULT_TENANT || next.config.tenants.contains_key(tenant);
        let before = self.tokens.borrow().staying(is_staying);
        let (mut tenants, mut tokens) = (Vec::new(), Tokens::default());
        for name in &names {
            let Some(own) = next.config.of_tenant(name) else { continue };
            let plan = running.check_prefix(&next.config, name);
            let plan = plan.and_then(|()| self.plan_of(running.tenants.get(name), own));
            let admitted = |plan| Ok(next.config.add_tokens_of(name, &mut tokens, &before).map(|()| plan)?);
            match plan.and_then(admitted) {
                Ok(plan) if plan.changes(running.tenants.get(name)) => tenants.push(plan),
                Ok(plan) => report.unchanged += plan.report.unchanged,
                Err(error) if name != DEFAULT_TENANT => {
                    next.keep(running, name);
                    tokens.keep_of(name, &before);
                    report.faulty.insert(name.clone(), error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        for (name, gone) in running.tenants.iter().filter(|(name, _)| !names.contains(name)) {
            tenants.push(gone.leaving(name));
        }
        Ok(Plan { config: next.config, tenants, report, sets_level: log_level, tokens })
    }

    /// The same for one tenant, of which `config` is what it is to have.
    fn plan_of(&self, running: Option<&Arc<RunningTenant>>, config: Config) -> Result<TenantPlan, ReloadError> {
        let namespace = &config.tenant.namespace;
        let nothing = RunningTenant::default();
        let running = running.map_or(&nothing, |running| &**running);
        let changes = Changes::of_tenant(&running.config, &config);
        let schemas = app::schemas(&config).map_err(BuildError::from)?;
        let has_new_schemas = schemas != running.schemas;
        let schemas = if has_new_schemas { schemas } else { running.schemas.clone() };
        let mut report = report(&changes, running, &config);
        if has_new_schemas {
            report.changed.push("schemas".to_owned());
        }
        let was = &running.config.tenant.namespace;
        let mut change = Change {
            tenant: namespace.tenant().clone(),
            handlers: Vec::new(),
            removed: changes.removed.iter().map(|name| was.qualified(name)).collect(),
            retention: app::retention(&config),
            intakes: self.intakes(&changes, &config),
        };
        let (envelopes, mut handlers, mut faults) = (app::envelopes(&config), BTreeMap::new(), Vec::new());
        for resolved in config.handlers() {
            let known = running.handlers.get(&resolved.name);
            let was = running.config.handlers.get(&resolved.name).map(|handler| handler.component.as_path());
            let configured = match self.configured(&config, &resolved, known.zip(was), &envelopes, &schemas) {
                Ok(configured) => configured,
                Err(BuildError::Components(fault)) => {
                    faults.extend(fault);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let deployment = self.deployment(&config, &resolved, known, &changes, &configured);
            let version = known.is_none_or(|known| !Arc::ptr_eq(&known.configured, &configured));
            let is_same = known.is_some_and(|known| Arc::ptr_eq(&known.deployment, &deployment)) && !version;
            if is_same {
                report.unchanged += 1;
            } else {
                if known.is_some() {
                    report.changed.push(format!("handlers.{}", resolved.name));
                }
                let version = version.then(|| configured.clone());
                change.handlers.push(Wanted { deployment: deployment.clone(), version });
            }
            handlers.insert(resolved.name, Known { deployment, configured });
        }
        if !faults.is_empty() {
            return Err(BuildError::Components(faults).into());
        }
        let name = config.tenant.name.clone();
        Ok(TenantPlan { name, change, next: Some(RunningTenant { config, schemas, handlers }), report })
    }

    /// The version that the configuration names; the one that is known (and what its component was named), if that is the
    /// same.
    fn configured(
        &self,
        config: &Config,
        resolved: &ResolvedHandler,
        known: Option<(&Known, &Path)>,
        envelopes: &Envelopes,
        schemas: &Arc<Schemas>,
    ) -> Result<Arc<Version>, BuildError> {
        let policy = app::policy(resolved, &config.tenant.namespace, envelopes, schemas.clone())?;
        let isolation = app::isolation(resolved.isolation);
        let (cache, keys, component) = (self.cache.as_ref(), &self.keys, &resolved.component);
        let version = match known {
            Some((known, was)) => {
                deploy::prepare_again(&known.configured, was, cache, keys, component, policy, isolation)
            }
            None => deploy::prepare(&self.engine, cache, keys, component, policy, isolation).map(Arc::new),
        };
        version.map_err(|cause| {
            let (handler, path) = (resolved.name.clone(), component.clone());
            BuildError::Components(vec![ComponentFault { handler, path, cause }])
        })
    }

    /// The handler as it is to be served; the same object as before, if at most its version changes.
    fn deployment(
        &self,
        config: &Config,
        resolved: &ResolvedHandler,
        known: Option<&Known>,
        changes: &Changes,
        configured: &Arc<Version>,
    ) -> Arc<Deployment> {
        let places = match known.map(|known| &known.deployment) {
            Some(known) if !changes.lanes.contains(&resolved.name) => return known.clone(),
            Some(known) => (known.slot.clone(), known.pinned.clone()),
            None => (Arc::new(Slot::new(configured.clone())), Arc::default()),
        };
        Arc::new(app::deployment(config, resolved, places))
    }

    /// All intakes; those that have not changed are the same objects as before, and counters go on.
    fn intakes(&self, changes: &Changes, config: &Config) -> Vec<Arc<Intake>> {
        let served = self.roster.now();
        let again = |intake: Intake| match served.intakes.iter().find(|known| known.name == intake.name) {
            Some(known) if !changes.intakes.contains(&intake.name) => known.clone(),
            Some(known) => Arc::new(Intake { stats: known.stats.clone(), ..intake }),
            None => Arc::new(intake),
        };
        app::intakes(config).into_iter().map(again).collect()
    }
}

impl TenantPlan {
    /// Whether anything is other than it runs.
    fn changes(&self, running: Option<&Arc<RunningTenant>>) -> bool {
        let is_same = |running: &Arc<RunningTenant>| {
            let next = self.next.as_ref();
            next.is_some_and(|next| next.config == running.config && Arc::ptr_eq(&next.schemas, &running.schemas))
        };
        let has_handlers = !self.change.handlers.is_empty() || !self.change.removed.is_empty();
        has_handlers || !running.is_some_and(is_same)
    }
}

impl RunningTenant {
    /// What there is to do for a tenant that is gone.
    fn leaving(&self, name: &str) -> TenantPlan {
        let namespace = &self.config.tenant.namespace;
        let removed = self.handlers.keys();
        let report = ReloadReport {
            removed: removed.clone().map(|handler| format!("handlers.{handler}")).collect(),
            ..ReloadReport::default()
        };
        let change = Change {
            tenant: namespace.tenant().clone(),
            handlers: Vec::new(),
            removed: removed.map(|handler| namespace.qualified(handler)).collect(),
            retention: Vec::new(),
            intakes: Vec::new(),
        };
        TenantPlan { name: name.to_owned(), change, next: None, report }
    }
}

/// What can be said of the settings alone.
fn report(changes: &Changes, running: &RunningTenant, config: &Config) -> ReloadReport {
    let Changes { added, removed, intakes, streams, .. } = changes;
    let mut report = ReloadReport {
        added: added.iter().map(|name| format!("handlers.{name}")).collect(),
        removed: removed.iter().map(|name| format!("handlers.{name}")).collect(),
        changed: streams.iter().map(|name| format!("streams.{name}")).collect(),
        ..ReloadReport::default()
    };
    for name in intakes {
        let list = match (running.config.intake.contains_key(name), config.intake.contains_key(name)) {
            (false, _) => &mut report.added,
            (true, false) => &mut report.removed,
            (true, true) => &mut report.changed,
        };
        list.push(format!("intake.{name}"));
    }
    report
}

/// What the audit log says of it.
fn told(report: &ReloadReport) -> String {
    let faulty: Vec<String> = report.faulty.keys().cloned().collect();
    let lists =
        [("added", &report.added), ("changed", &report.changed), ("removed", &report.removed), ("faulty", &faulty)];
    let lists = lists.into_iter().filter(|(_, names)| !names.is_empty());
    let lists = lists.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect::<Vec<_>>();
    if lists.is_empty() { "nothing has changed".to_owned() } else { lists.join("; ") }
}

/// Says in the log how it ended.
fn tell(outcome: &Outcome) {
    match outcome {
        Ok(report) => {
            let [added, changed, removed] =
                [&report.added, &report.changed, &report.removed].map(|names| names.join(","));
            tracing::info!(
                added,
                changed,
                removed,
                unchanged = report.unchanged,
                "the configuration has been reloaded"
            );
            for (tenant, why) in &report.faulty {
                let why = why.replace('\n', "; ");
                tracing::error!(alarm = "tenant_faulty", tenant, "the tenant stays as it was: {why}");
            }
            if !report.needs_restart.is_empty() {
                let settings = report.needs_restart.join(",");
                tracing::warn!(settings, "these settings have changed, and need a restart to take effect");
            }
        }
        Err(error) => {
            let why = error.to_string().replace('\n', "; ");
            tracing::error!(alarm = "reload_failed", "nothing is reloaded, everything stays as it was: {why}");
        }
    }
}
