//! What operators do: look at streams, events, workers and dead letters; publish, replay, redrive, pause.
//!
//! Every operation is a method of [`Operator`], on whatever broker. The command line calls it directly, or through the
//! HTTP API of a worker, which calls it too: questions and answers are the same types on both ways.

pub(crate) mod audit;
mod dead_letters;
mod doctor;
mod fleet;
mod history;
mod pending;
mod pins;
mod position;
mod publish;
mod quotas;
mod replay;
mod schemas;
mod state;
mod streams;
mod tenants;
mod users;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use audit::{AuditPage, AuditQuery, MAX_AUDIT_PAGE};
pub use dead_letters::{DeadLetterPage, DeadLetterQuery, DeadLetterReport, MovedReport, RawBytes, Selection};
pub use doctor::{Check, DoctorReport, Finding, Level};
pub use fleet::{HandlerStatus, PauseReport, StatsReport, WorkerStatus};
pub use history::{HistoryEvent, HistoryPage, HistoryQuery, MAX_HISTORY_PAGE, PastEntry, PastPage};
pub use pending::{ConsumerPending, PendingQuery, PendingReport, PendingRow};
pub use position::{InvalidPosition, Position};
pub use publish::{MAX_PUBLISH, PublishReport};
pub use replay::{MAX_REPLAY_BACKLOG, MAX_REPLAY_PAGE, ReplayReport, ReplayRequest, check_reads};
pub use schemas::{SchemaDocument, SchemaQuery, SchemaReport, SchemaVersion};
pub use state::{StateCleared, StateKey, StateQuery, StateReport, StateValue, StateWrite, StateWritten};
pub use streams::{GroupReport, StreamReport};
pub use tenants::{QuotaUsage, TenantReport, UsageReport};
pub use versions::{
    CanaryReport, DeployQuery, GcReport, PREPARE_TIME, RollbackRequest, SmokeReport, VersionReport, VersionState,
    VersionsReport, WorkerVersion,
};

use crate::access::{Actor, Holder};
use crate::app;
use crate::broker::acl::UserGrants;
use crate::broker::keys;
use crate::broker::{BrokerError, Operate};
use crate::config::{Config, ResolvedHandler, StreamConfig, Tenant};
use crate::envelope::Envelopes;
use crate::quota::{Counted, Sampler};
use crate::schema::{SchemaViolation, Schemas};

/// An operation that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// There is no such stream.
    #[error("there is no stream `{name}`; {known}")]
    UnknownStream { name: String, known: String },
    /// No such handler is configured.
    #[error("no handler `{name}` is configured; {known}")]
    UnknownHandler { name: String, known: String },
    /// There is no such dead letter.
    #[error("there is no dead letter {id} of {handler}")]
    UnknownDeadLetter { handler: String, id: String },
    /// There is no such key in the state of the handler.
    #[error("there is no key {key:?} in the state of {handler}")]
    UnknownStateKey { handler: String, key: String },
    /// No component of that digest is kept.
    #[error("the component of sha256:{digest} is not kept: deploy it again")]
    UnknownComponent { digest: String },
    /// There is no schema of that type, or in that version.
    #[error("{0}")]
    UnknownSchema(String),
    /// What was asked for is not well formed.
    #[error("{0}")]
    Invalid(String),
    /// An event does not follow its schema.
    #[error("{place}{violation}")]
    Schema {
        place: String,
        #[source]
        violation: SchemaViolation,
    },
    /// More than a limit allows.
    #[error("{0}")]
    TooLarge(String),
    /// A quota of the tenant is used up.
    #[error("quotas.{quota} of the tenant {tenant}: {text}")]
    Quota { tenant: String, quota: &'static str, text: String },
    /// Something else is going on that must end first.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be written down who does it.
    #[error(
        "nothing was done, as it cannot be written down in the audit log, `wasmill:audit` (of a tenant \
         `wasmill:audit:NAME`): {0}; the key must be a stream or absent, and the worker's user may write it"
    )]
    NotAudited(#[source] BrokerError),
    /// The broker did not do it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl OpsError {
    /// The HTTP status that says the same.
    pub fn status(&self) -> u16 {
        match self {
            OpsError::UnknownStream { .. } | OpsError::UnknownHandler { .. } | OpsError::UnknownDeadLetter { .. } => {
                404
            }
            OpsError::UnknownSchema(_) | OpsError::UnknownComponent { .. } | OpsError::UnknownStateKey { .. } => 404,
            OpsError::Invalid(_) => 400,
            OpsError::Schema { .. } => 422,
            OpsError::TooLarge(_) => 413,
            // Insufficient storage: waiting alone does not help.
            OpsError::Quota { quota: "component_bytes" | "state_bytes", .. } => 507,
            OpsError::Quota { .. } => 429,
            OpsError::Conflict(_) => 409,
            OpsError::NotAudited(_) => 503,
            OpsError::Broker(BrokerError::Unreachable { .. } | BrokerError::Refused { .. }) => 503,
            OpsError::Broker(BrokerError::NotRedrivable { .. }) => 409,
            OpsError::Broker(_) => 502,
        }
    }

    /// A word for the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            OpsError::UnknownStream { .. } => "unknown-stream",
            OpsError::UnknownHandler { .. } => "unknown-handler",
            OpsError::UnknownDeadLetter { .. } => "unknown-dead-letter",
            OpsError::UnknownSchema(_) => "unknown-schema",
            OpsError::UnknownComponent { .. } => "unknown-component",
            OpsError::UnknownStateKey { .. } => "unknown-state-key",
            OpsError::Invalid(_) => "invalid",
            OpsError::Schema { .. } => "schema",
            OpsError::TooLarge(_) => "too-large",
            OpsError::Quota { .. } => "quota",
            OpsError::Conflict(_) => "conflict",
            OpsError::NotAudited(_) => "not-audited",
            OpsError::Broker(BrokerError::Unreachable { .. }) => "broker-unreachable",
            OpsError::Broker(BrokerError::Refused { .. }) => "broker-refuses",
            OpsError::Broker(BrokerError::NotRedrivable { .. }) => "not-redrivable",
            OpsError::Broker(_) => "broker",
        }
    }
}

/// Does operations on one broker, for the handlers of one configuration.
#[derive(Clone)]
pub struct Operator {
    broker: Arc<dyn Operate>,
    tenant: Arc<Tenant>,
    handlers: Arc<[ResolvedHandler]>,
    schemas: Arc<Schemas>,
    envelopes: Envelopes,
    /// The largest event that may be published, in bytes.
    event_bytes: usize,
    streams: Arc<BTreeMap<String, StreamConfig>>,
    /// All that the configuration names.
    stream_names: Arc<[String]>,
    /// Who asks.
    actor: Actor,
    going_on: Arc<audit::GoingOn>,
    /// What the Redis user of the tenant needs, if it has one.
    user: Option<Arc<UserGrants>>,
    /// What it uses.
    sampler: Sampler,
}

/// What counts against the quotas of the tenant: the streams that its configuration names, and what wasmill adds for them.
fn counted(config: &Config) -> Counted {
    let namespace = &config.tenant.namespace;
    let streams = config.stream_names().into_iter().filter(|name| namespace.is_own(name));
    let handlers = config.handlers();
    let inboxes = handlers.iter().map(|handler| namespace.inbox(&handler.name));
    let dead: BTreeSet<Arc<str>> = handlers.iter().map(|handler| namespace.stream(&handler.dead_letter)).collect();
    let keys = streams.map(|name| namespace.stream(&name)).chain(inboxes).chain([namespace.delayed()]);
    let keys: BTreeSet<Arc<str>> = keys.chain(dead.iter().cloned()).collect();
    Counted { keys: keys.into_iter().collect(), dead: dead.into_iter().collect() }
}

/// The operators of all tenants, by name. Cheap to clone.
#[derive(Clone)]
pub struct Operators(Arc<BTreeMap<String, Operator>>);

impl Operators {
    /// These.
    pub fn new(operators: BTreeMap<String, Operator>) -> Operators {
        Operators(Arc::new(operators))
    }

    /// The one that works for a tenant, if there is one.
    pub fn get(&self, tenant: &str) -> Option<&Operator> {
        self.0.get(tenant)
    }

    /// The names of the tenants, in order.
    pub fn tenants(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Operator {
    /// Works on `broker`, and knows the handlers and streams of `config`. What is published must follow `schemas`.
    pub fn new(broker: Arc<dyn Operate>, config: &Config, schemas: Arc<Schemas>) -> Operator {
        Operator {
            broker,
            tenant: Arc::new(config.tenant.clone()),
            handlers: config.handlers().into(),
            schemas,
            envelopes: app::envelopes(config),
            streams: Arc::new(config.streams.clone()),
            stream_names: config.stream_names().into_iter().collect(),
            actor: Actor::default(),
            going_on: Arc::default(),
            user: config.tenant.redis.username.is_some().then(|| Arc::new(app::user_grants(config))),
            sampler: Sampler::new(counted(config)),
            event_bytes: usize::try_from(config.limits.event_bytes.as_u64()).unwrap_or(usize::MAX),
        }
    }

    /// The broker.
    pub fn broker(&self) -> &dyn Operate {
        &*self.broker
    }

    /// The tenant whose handlers and streams these are.
    pub fn tenant(&self) -> &str {
        self.tenant.namespace.tenant()
    }

    /// The handlers of the configuration, in the order of their names.
    pub fn handlers(&self) -> &[ResolvedHandler] {
        &self.handlers
    }

    /// The handler of that name.
    pub fn handler(&self, name: &str) -> Result<&ResolvedHandler, OpsError> {
        self.handlers.iter().find(|handler| handler.name == name).ok_or_else(|| {
            let known = match self.handlers.len() {
                0 => "there is no handler in the configuration: name a file with --config".to_owned(),
                _ => format!("there are: {}", join(self.handlers.iter().map(|handler| handler.name.as_str()))),
            };
            OpsError::UnknownHandler { name: name.to_owned(), known }
        })
    }

    /// The streams that the configuration names, in order: see [`Config::stream_names`].
    pub fn configured_streams(&self) -> Vec<String> {
        self.stream_names.to_vec()
    }

    /// What a handler is called where those of all tenants stand together.
    fn id(&self, handler: &str) -> Arc<str> {
        self.tenant.namespace.qualified(handler)
    }

    /// The key of a stream that somebody names. Those of other tenants are a matter of theirs.
    fn key(&self, stream: &str) -> Result<Arc<str>, OpsError> {
        if self.may_see(stream) {
            return Ok(self.tenant.namespace.stream(stream));
        }
        let problem = match stream.starts_with(keys::PREFIX) {
            true => format!("`{stream}` is wasmill's own: that takes the token of everything"),
            false => format!("`{stream}` belongs to another tenant: ask for it with --tenant"),
        };
        Err(OpsError::Invalid(problem))
    }

    /// Whether whoever asks may see a stream of that name. wasmill's own keys tell of all tenants.
    fn may_see(&self, stream: &str) -> bool {
        let is_of_tenant = matches!(&self.actor, Actor::Token(Holder { tenant: Some(_), .. }));
        self.tenant.namespace.is_own(stream) && !(is_of_tenant && stream.starts_with(keys::PREFIX))
    }

    fn unknown_stream(&self, name: &str) -> OpsError {
        let known = match self.configured_streams() {
            none if none.is_empty() => "`wasmill streams --all` lists those that are there".to_owned(),
            names => format!("the configuration names: {}", join(names.iter().map(String::as_str))),
        };
        OpsError::UnknownStream { name: name.to_owned(), known }
    }
}

/// The same error, with the stream that it is about: what the server says does not name it.
fn about(stream: &str, error: BrokerError) -> BrokerError {
    match error {
        BrokerError::Refused { refusal, message } => {
            BrokerError::Refused { refusal, message: format!("stream `{stream}`: {message}") }
        }
        other => other,
    }
}

/// Names in one line, the first twenty of them.
fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 20;
    let names: Vec<&str> = names.collect();
    let more = if names.len() > MOST { " ..." } else { "" };
    format!("{}{more}", names[..names.len().min(MOST)].join(", "))
}
