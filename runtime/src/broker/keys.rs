//! Every Redis key and field that wasmill makes up, in one place.
//!
//! The streams of the tenant `default` are the Redis keys of the same name, so that wasmill works on the streams that
//! are already there. All that wasmill adds lies under `wasmill:`. The keys of another tenant, streams and what wasmill
//! adds for them, all begin with the tenant's prefix, so that one pattern bounds what a user of that tenant may touch. What
//! belongs to no tenant (workers, components, records) lies under `wasmill:`.

use std::sync::Arc;

use super::Source;

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
    if name.chars().any(char::is_control) {
        return Err(format!("{name:?} has a control character"));
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

/// Where the streams of a tenant lie: what is put before every key of theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    prefix: Arc<str>,
}

impl Namespace {
    /// Keys lie under `prefix`; the default is no prefix.
    pub fn new(prefix: impl Into<Arc<str>>) -> Namespace {
        Namespace { prefix: prefix.into() }
    }

    /// What all keys begin with; empty for the tenant `default`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A key that wasmill adds. No stream can have it, since their names do not begin with `wasmill:`.
    fn own(&self, name: &str) -> Arc<str> {
        format!("{}{PREFIX}{name}", self.prefix).into()
    }

    /// The key of a stream.
    pub fn stream(&self, name: &str) -> Arc<str> {
        format!("{}{name}", self.prefix).into()
    }

    /// Whether the key can be that of a stream of this tenant.
    pub fn has_stream(&self, key: &str) -> bool {
        key.strip_prefix(&*self.prefix).is_some_and(|name| check_stream_name(name).is_ok())
    }

    /// The stream that only this handler reads: redriven dead letters arrive here. Its entries hold an original, with the
    /// place that it came from before it.
    pub fn inbox(&self, handler: &str) -> Arc<str> {
        self.own(&format!("inbox:{handler}"))
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
        Source { stream: name.to_owned(), due_key: self.due(group, &key), key, group: group.into(), is_inbox: false }
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
        let tenant = Namespace::new("acme:");
        let (source, inbox) = (tenant.source("orders", "billing"), tenant.inbox_source("payment", "billing"));
        assert_eq!((&*source.key, &*source.due_key), ("acme:orders", "acme:wasmill:due:billing:acme:orders"));
        assert_eq!((&*inbox.key, inbox.is_inbox), ("acme:wasmill:inbox:payment", true));
        assert_eq!(&*mark(&tenant.marks("billing"), [1; 16]), format!("acme:wasmill:seen:billing:{}", "01".repeat(16)));
        assert_eq!((&*tenant.delayed(), &*Namespace::default().delayed()), ("acme:wasmill:delayed", DELAYED));
        assert_eq!(&*tenant.intake("prices"), "acme:wasmill:intake:prices");
    }
}
