//! Every Redis key and field that wasmill makes up, in one place.
//!
//! The streams of the tenant `default` are the Redis keys of the same name, so that wasmill works on the streams that
//! are already there. All that wasmill adds lies under `wasmill:`. The keys of another tenant, streams and what wasmill
//! adds for them, all begin with the tenant's prefix, so that one pattern bounds what a user of that tenant may touch. What
//! belongs to no tenant (workers, components, records) lies under `wasmill:`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Source;
use crate::state::Home;
use crate::text::is_acted_on;

/// The tenant of everything that names none.
pub const DEFAULT_TENANT: &str = "default";

/// What the names of wasmill's own keys and channels begin with.
pub const PREFIX: &str = "wasmill:";

/// The consumer that holds the entries which wait for another attempt. It never reads.
pub const PARKED_CONSUMER: &str = "wasmill-parked";

/// What the names of wasmill's own consumers begin with. Consumers with other names belong to other programs.
pub const CONSUMER_PREFIX: &str = "wasmill-";

/// The longest name of a stream, in bytes.
pub const MAX_STREAM_NAME: usize = 512;

/// What is wrong with the name of a stream.
pub fn check_stream_name(name: &str) -> Result<(), String> {
    if !(1..=MAX_STREAM_NAME).contains(&name.len()) {
        return Err(format!("the name of a stream has 1 to {MAX_STREAM_NAME} bytes, this one {}", name.len()));
    }
    if name.chars().any(is_acted_on) {
        return Err(format!("{name:?} has a character that terminals act on"));
    }
    if name.starts_with(PREFIX) {
        return Err(format!("`{name}`: names that begin with `{PREFIX}` are wasmill's own"));
    }
    Ok(())
}

/// The sorted set of workers: when each one's heartbeat ends, in milliseconds since the Unix epoch.
pub const WORKERS: &str = "wasmill:workers";

/// The heartbeat of a worker: exists while the worker lives, and holds what it says of itself.
pub fn heartbeat(worker: &str) -> String {
    format!("wasmill:worker:{worker}")
}

/// The handlers that are paused: a hash, field handler, value since when in milliseconds.
pub const PAUSED: &str = "wasmill:paused";

/// The components that are kept: a hash, field digest, value size in bytes.
pub const COMPONENTS: &str = "wasmill:components";

/// The bytes of a component.
pub fn component(digest: &str) -> String {
    format!("wasmill:component:{digest}")
}

/// Which version of each handler serves: a hash, field handler, value as in [`crate::deploy::record`].
pub const DEPLOYMENTS: &str = "wasmill:deployments";

/// How often one of those has changed: a number.
pub const DEPLOYMENTS_REVISION: &str = "wasmill:deployments:rev";

/// The audit log of a tenant: a stream, entries as in [`crate::audit`]. Not among the keys that the tenant may touch; that of
/// `default` is that of the worker itself, too.
pub fn audit(tenant: &str) -> String {
    match tenant {
        DEFAULT_TENANT => "wasmill:audit".to_owned(),
        _ => format!("wasmill:audit:{tenant}"),
    }
}

/// How far workers have come with a deployment: a hash, field worker.
pub fn deployment_reports(handler: &str) -> String {
    format!("wasmill:deploying:{handler}")
}

/// The mark of an event that the group has handled: exists as long as it is remembered. `marks` is what
/// [`Namespace::marks`] gives.
pub fn mark(marks: &str, hash: [u8; 16]) -> Arc<str> {
    format!("{marks}{:032x}", u128::from_be_bytes(hash)).into()
}

/// The set of events of the tenant `default` that wait for their time.
pub const DELAYED: &str = "wasmill:delayed";

/// The worker that a consumer belongs to: consumers are named `WORKER.THREAD`. `None` for other programs' consumers.
pub fn worker_of(consumer: &str) -> Option<&str> {
    let (worker, _) = consumer.rsplit_once('.')?;
    (worker.starts_with(CONSUMER_PREFIX)).then_some(worker)
}

/// How far the writing of an intake has come; `intake` is what [`Namespace::intake`] gives.
pub fn intake_position(intake: &str) -> String {
    format!("{intake}:at")
}

/// The channel of an intake's marks.
pub fn intake_marks(intake: &str) -> String {
    format!("{intake}:marks")
}

/// The name of the dead-letter stream of a handler that does not set `dead_letter`.
pub fn default_dead_letter(handler: &str) -> String {
    format!("{handler}.dead")
}

/// Where the keys of a tenant lie: what is put before every one of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    tenant: Arc<str>,
    prefix: Arc<str>,
    /// The keys of streams of other tenants that it was granted, by the names that it has for them.
    foreign: Arc<BTreeMap<String, Arc<str>>>,
    /// The prefixes of other tenants, if its own is none.
    others: Arc<[String]>,
}

impl Default for Namespace {
    /// That of the tenant `default`: no prefix.
    fn default() -> Self {
        Namespace::new(DEFAULT_TENANT, "")
    }
}

impl Namespace {
    /// The keys of `tenant` lie under `prefix`.
    pub fn new(tenant: impl Into<Arc<str>>, prefix: impl Into<Arc<str>>) -> Namespace {
        Namespace { tenant: tenant.into(), prefix: prefix.into(), foreign: Arc::default(), others: Arc::default() }
    }

    /// The same, with streams of others: their keys by the names that this tenant has for them.
    pub fn with_foreign(self, keys: BTreeMap<String, Arc<str>>) -> Namespace {
        Namespace { foreign: Arc::new(keys), ..self }
    }

    /// The same, but for keys with these prefixes: they are those of other tenants.
    pub fn without(self, others: impl IntoIterator<Item = String>) -> Namespace {
        Namespace { others: others.into_iter().collect(), ..self }
    }

    /// The tenant.
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// What all its keys begin with; empty for the tenant `default`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What a handler is called where those of all tenants stand together: `TENANT/HANDLER`, of `default` its name alone.
    pub fn qualified(&self, handler: &str) -> Arc<str> {
        match &*self.tenant {
            DEFAULT_TENANT => handler.into(),
            tenant => format!("{tenant}/{handler}").into(),
        }
    }

    /// The name of the handler, if it is one of this tenant; `id` is what [`Namespace::qualified`] gives.
    pub fn unqualified<'a>(&self, id: &'a str) -> Option<&'a str> {
        match (id.split_once('/'), &*self.tenant) {
            (None, DEFAULT_TENANT) => Some(id),
            (Some((tenant, handler)), own) if tenant == own => Some(handler),
            _ => None,
        }
    }

    /// A key that wasmill adds. No stream can have it, since their names do not begin with `wasmill:`.
    fn own(&self, name: &str) -> Arc<str> {
        format!("{}{PREFIX}{name}", self.prefix).into()
    }

    /// The key of a stream.
    pub fn stream(&self, name: &str) -> Arc<str> {
        match self.foreign.get(name) {
            Some(key) => key.clone(),
            None => format!("{}{name}", self.prefix).into(),
        }
    }

    /// Whether a stream that is called so belongs to this tenant.
    pub fn is_own(&self, name: &str) -> bool {
        !self.foreign.contains_key(name) && !self.others.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Whether the key can be that of a stream of this tenant, or is one that it was granted.
    pub fn has_stream(&self, key: &str) -> bool {
        let name = key.strip_prefix(&*self.prefix);
        let is_own = name.is_some_and(|name| check_stream_name(name).is_ok() && self.is_own(name));
        is_own || self.foreign.values().any(|foreign| **foreign == *key)
    }

    /// The stream that only this handler reads: redriven dead letters arrive here. Its entries hold an original, with the
    /// place that it came from before it.
    pub fn inbox(&self, handler: &str) -> Arc<str> {
        self.own(&format!("inbox:{handler}"))
    }

    /// The state of a handler: a hash, field and value are those of the handler. `quota`: the most bytes that the states
    /// of the tenant may have together.
    pub fn state(&self, handler: &str, quota: Option<u64>) -> Home {
        let hash = self.own(&format!("state:{handler}"));
        Home { hash, sizes: self.state_sizes(), handler: handler.into(), quota }
    }

    /// How many bytes of keys and values the states of the tenant have: a hash, field handler.
    pub fn state_sizes(&self) -> Arc<str> {
        self.own("state-sizes")
    }

    /// An intake: the key of its lease, which exists while a worker has it.
    pub fn intake(&self, name: &str) -> Arc<str> {
        self.own(&format!("intake:{name}"))
    }

    /// What the marks of events that the group has handled begin with, see [`mark`].
    pub fn marks(&self, group: &str) -> Arc<str> {
        self.own(&format!("seen:{group}:"))
    }

    /// The sorted set of events that wait for their time: member as in [`super::delayed`], score due time in milliseconds.
    pub fn delayed(&self) -> Arc<str> {
        self.own("delayed")
    }

    /// A stream as the group of a handler reads it.
    pub fn source(&self, name: &str, group: &str) -> Source {
        let key = self.stream(name);
        // Its owner may have a group of the same name.
        let group = if self.foreign.contains_key(name) { self.qualified(group) } else { group.into() };
        Source { stream: name.to_owned(), due_key: self.due(&group, &key), key, group, is_inbox: false }
    }

    /// The inbox of a handler as its group reads it.
    pub fn inbox_source(&self, handler: &str, group: &str) -> Source {
        let key = self.inbox(handler);
        let stream = key.to_string();
        Source { stream, due_key: self.due(group, &key), key, group: group.into(), is_inbox: true }
    }

    /// The sorted set of parked entries of one group on one stream: member entry id, score due time in milliseconds.
    fn due(&self, group: &str, key: &str) -> Arc<str> {
        self.own(&format!("due:{group}:{key}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_tells_its_worker() {
        assert_eq!(worker_of("wasmill-host-1-ab.0"), Some("wasmill-host-1-ab"));
        assert_eq!(worker_of(PARKED_CONSUMER), None);
        assert_eq!(worker_of("python.1"), None);
    }

    #[test]
    fn all_keys_of_a_tenant_begin_with_its_prefix() {
        let tenant = Namespace::new("acme", "acme:");
        let (source, inbox) = (tenant.source("orders", "billing"), tenant.inbox_source("payment", "billing"));
        assert_eq!((&*source.key, &*source.due_key), ("acme:orders", "acme:wasmill:due:billing:acme:orders"));
        assert_eq!((&*inbox.key, inbox.is_inbox), ("acme:wasmill:inbox:payment", true));
        assert_eq!(&*mark(&tenant.marks("billing"), [1; 16]), format!("acme:wasmill:seen:billing:{}", "01".repeat(16)));
        assert_eq!((&*tenant.delayed(), &*Namespace::default().delayed()), ("acme:wasmill:delayed", DELAYED));
        assert_eq!(&*tenant.intake("prices"), "acme:wasmill:intake:prices");
        let state = tenant.state("billing", Some(10));
        assert_eq!((&*state.hash, &*state.sizes), ("acme:wasmill:state:billing", "acme:wasmill:state-sizes"));
        assert_eq!((&*state.handler, state.quota), ("billing", Some(10)));
    }

    #[test]
    fn streams_of_others_keep_their_keys_and_are_read_by_a_group_that_says_who_reads() {
        let granted = BTreeMap::from([("beta/prices".to_owned(), "b:prices".into())]);
        let tenant = Namespace::new("acme", "acme:").with_foreign(granted);
        let source = tenant.source("beta/prices", "billing");
        assert_eq!((&*source.key, &*source.group), ("b:prices", "acme/billing"));
        assert_eq!(&*source.due_key, "acme:wasmill:due:acme/billing:b:prices");
        assert!(tenant.has_stream("b:prices") && tenant.has_stream("acme:orders"));
        assert!(
            !tenant.has_stream("b:orders")
                && !tenant.has_stream("orders")
                && !tenant.has_stream("acme:wasmill:delayed")
        );
        assert_eq!(&*tenant.stream("beta/orders"), "acme:beta/orders", "what was not granted is a name as others");
    }

    #[test]
    fn what_has_the_prefix_of_another_tenant_is_not_of_the_default_one() {
        let default = Namespace::default().without(["acme:".to_owned()]);
        assert!(default.is_own("orders") && default.has_stream("orders"));
        assert!(!default.is_own("acme:orders") && !default.has_stream("acme:orders"));
    }

    #[test]
    fn handlers_are_told_apart_by_their_tenants() {
        let (default, acme) = (Namespace::default(), Namespace::new("acme", "acme:"));
        assert_eq!((&*default.qualified("pay"), &*acme.qualified("pay")), ("pay", "acme/pay"));
        assert_eq!((default.unqualified("pay"), default.unqualified("acme/pay")), (Some("pay"), None));
        assert_eq!(
            (acme.unqualified("acme/pay"), acme.unqualified("pay"), acme.unqualified("b/pay")),
            (Some("pay"), None, None)
        );
    }
}
