//! What holds for each handler in the end: its own settings over the general ones, in plain types.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::Config;
use super::errors::nearest;
use super::interfaces::{ConfigValue, HttpConfig};
use super::secret::SecretError;
use super::sections::{HandlerConfig, IsolationMode, Limits, RetryConfig};
use crate::broker::keys;
use crate::outcome::{Dedup, RetryPolicy};
use crate::project::Plan;
use crate::route::Types;
use crate::wasm::http::HttpPolicy;
use crate::wasm::http::origin::Origin;
use crate::wasm::{Capability, Values};

/// A handler with everything that holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedHandler {
    /// Its name.
    pub name: String,
    /// The consumer group that it reads through.
    pub group: String,
    /// How long entries are idle under consumers of other programs until they are taken over.
    pub take_over_idle: Duration,
    /// The component's file, joined with the directory of the configuration file; or a reference to a registry.
    pub component: PathBuf,
    /// How the component is built from sources, if it is.
    pub build: Option<Plan>,
    /// The streams that it reads.
    pub streams: Vec<String>,
    /// The event types that it wants.
    pub types: Types,
    /// Whether deliveries share an instance.
    pub isolation: Isolation,
    /// What one delivery may use.
    pub limits: ResolvedLimits,
    /// How often and how patiently failures are tried again.
    pub retry: RetryPolicy,
    /// The streams that it may publish to.
    pub publishes: Vec<String>,
    /// Whether and how it knows events that it has handled before.
    pub dedup: Option<Dedup>,
    /// The stream for events that it could not handle.
    pub dead_letter: String,
    /// The host interfaces that it may import.
    pub grants: Vec<Capability>,
    /// Whether time and randomness depend on nothing but the event and the attempt.
    pub deterministic: bool,
    /// Where its HTTP requests may go; `None` if they are not granted.
    pub http: Option<HttpPolicy>,
    /// What the handler itself can read as its configuration.
    pub config: BTreeMap<String, ConfigValue>,
}

impl ResolvedHandler {
    /// The values of its configuration, read now: secrets come from the environment and from files.
    pub fn values(&self) -> Result<Values, SecretError> {
        let read = |(key, value): (&String, &ConfigValue)| {
            let field = format!("handlers.{}.config.{key}", self.name);
            Ok((key.clone(), value.read(field, |name| std::env::var(name).ok())?))
        };
        self.config.iter().map(read).collect::<Result<BTreeMap<_, _>, _>>().map(Values::from)
    }
}

/// Whether deliveries share an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Every delivery has a new one.
    Fresh,
    /// An instance is used again, up to so many events and so many bytes of memory growth.
    Reuse { max_events: u32, max_memory_growth: usize },
}

/// What one delivery may use. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedLimits {
    /// Linear memory of one instance.
    pub memory: usize,
    /// Wall-clock time, without that for which the tenant is throttled.
    pub deadline: Duration,
    /// Deliveries at the same time.
    pub concurrency: usize,
    /// Events that may be published.
    pub publishes: u32,
    /// Bytes of all events that may be published.
    pub publish_bytes: usize,
    /// Bytes of keys and values of its state that may be read and written.
    pub state_bytes: usize,
    /// Bytes of the event that is handled.
    pub event_bytes: usize,
    /// Bytes of log output that are kept.
    pub log_bytes: usize,
    /// Bytes of the component.
    pub component_bytes: u64,
}

impl From<&Limits> for ResolvedLimits {
    fn from(limits: &Limits) -> Self {
        ResolvedLimits {
            memory: bytes(limits.memory),
            deadline: limits.deadline,
            concurrency: limits.concurrency,
            publishes: limits.publishes,
            publish_bytes: bytes(limits.publish_bytes),
            state_bytes: bytes(limits.state_bytes),
            event_bytes: bytes(limits.event_bytes),
            log_bytes: bytes(limits.log_bytes),
            component_bytes: limits.component_bytes.as_u64(),
        }
    }
}

impl From<&RetryConfig> for RetryPolicy {
    fn from(retry: &RetryConfig) -> Self {
        RetryPolicy { max_attempts: retry.max_attempts, base: retry.base, cap: retry.cap }
    }
}

/// Sizes beyond the address space are as good as its end.
fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// How the component of a handler is built.
fn plan(name: &str, handler: &HandlerConfig) -> Option<Plan> {
    let build = handler.build.as_ref()?;
    Some(Plan {
        name: name.to_owned(),
        lang: build.lang?,
        directory: build.directory.clone(),
        output: handler.component.clone(),
    })
}

impl Config {
    /// The handler of that name, with everything that holds for it.
    pub fn handler(&self, name: &str) -> Option<ResolvedHandler> {
        self.handlers.get(name).map(|handler| self.resolve(name, handler))
    }

    /// All handlers, by name.
    pub fn handlers(&self) -> Vec<ResolvedHandler> {
        self.handlers.iter().map(|(name, handler)| self.resolve(name, handler)).collect()
    }

    /// The streams that are named anywhere: those that handlers read and publish to, their dead letters, those with
    /// settings of their own, and those of intakes.
    pub fn stream_names(&self) -> BTreeSet<String> {
        let handlers = self.handlers();
        let of_handlers = handlers
            .iter()
            .flat_map(|handler| handler.streams.iter().chain(&handler.publishes).chain([&handler.dead_letter]));
        let of_intakes = self.intake.values().map(|intake| &intake.stream);
        of_handlers.chain(self.streams.keys()).chain(of_intakes).cloned().collect()
    }

    /// Whether `name` may be a slip: the configuration names streams, but not this one. Says so, with the name that looks
    /// most like it.
    pub fn doubt_stream(&self, name: &str) -> Option<String> {
        let names = self.stream_names();
        if names.is_empty() || names.contains(name) {
            return None;
        }
        let doubt = format!("the configuration does not name the stream `{}`", name.escape_debug());
        Some(match nearest(name, names.iter().map(String::as_str)) {
            Some(meant) => format!("{doubt}; did you mean `{meant}`?"),
            None => doubt,
        })
    }

    fn resolve(&self, name: &str, handler: &HandlerConfig) -> ResolvedHandler {
        ResolvedHandler {
            name: name.to_owned(),
            group: handler.group.clone().unwrap_or_else(|| name.to_owned()),
            take_over_idle: handler.take_over_idle,
            component: handler.component.clone(),
            build: plan(name, handler),
            streams: handler.streams.clone(),
            types: Types::new(&handler.types),
            isolation: match handler.isolation {
                IsolationMode::Fresh => Isolation::Fresh,
                IsolationMode::Reuse => Isolation::Reuse {
                    max_events: handler.reuse.max_events,
                    max_memory_growth: bytes(handler.reuse.max_memory_growth),
                },
            },
            limits: ResolvedLimits::from(&handler.limits.over(&self.limits)),
            retry: RetryPolicy::from(&handler.retry.over(&self.retry)),
            publishes: handler.publishes.clone(),
            dedup: handler.dedup.map(|ttl| Dedup { by: handler.dedup_by, ttl }),
            dead_letter: handler.dead_letter.clone().unwrap_or_else(|| keys::default_dead_letter(name)),
            grants: handler.grants.clone(),
            deterministic: handler.deterministic,
            http: handler.grants.contains(&Capability::Http).then(|| self.http(&handler.http)),
            config: handler.config.clone(),
        }
    }

    fn http(&self, http: &HttpConfig) -> HttpPolicy {
        HttpPolicy {
            // What is no origin has been refused by the checks.
            allow: http.allow.iter().filter_map(|text| Origin::parse(text).ok()).collect(),
            private: http.private,
            requests: http.requests,
            request_bytes: http.request_bytes.as_u64(),
            response_bytes: http.response_bytes.as_u64(),
            timeout: http.timeout,
            own: self.own_endpoints(),
        }
    }

    /// Host and port of Redis and of the admin API.
    fn own_endpoints(&self) -> Vec<(String, u16)> {
        let admin = self.admin.address().map(|address| (address.ip().to_string(), address.port()));
        self.redis.endpoint().into_iter().chain(admin).collect()
    }
}
