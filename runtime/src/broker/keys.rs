//! Every Redis key and field that wasmill makes up, in one place.
//!
//! The streams of the tenant `default` are the Redis keys of the same name, so that wasmill works on the streams that
//! are already there. All that wasmill adds lies under `wasmill:`.

use std::sync::Arc;

use super::Source;
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

const INBOX_PREFIX: &str = "wasmill:inbox:";

/// Whether the key is that of an inbox: its entries hold an original, with the place that it came from before it.
pub fn is_inbox(key: &str) -> bool {
    key.starts_with(INBOX_PREFIX)
}

/// The sorted set of events that wait for their time: member as in [`super::delayed`], score due time in milliseconds.
pub const DELAYED: &str = "wasmill:delayed";

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

/// How far workers have come with a deployment: a hash, field worker.
pub fn deployment_reports(handler: &str) -> String {
    format!("wasmill:deploying:{handler}")
}

/// The mark of an event that the group has handled: exists as long as it is remembered.
pub fn seen(group: &str, hash: [u8; 16]) -> Arc<str> {
    format!("wasmill:seen:{group}:{:032x}", u128::from_be_bytes(hash)).into()
}

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

/// Where the streams of a set of handlers lie: what is put before every key of theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    prefix: String,
}

impl Namespace {
    /// Streams lie under `prefix`; the default is no prefix.
    pub fn new(prefix: impl Into<String>) -> Namespace {
        Namespace { prefix: prefix.into() }
    }

    /// The key of a stream.
    pub fn stream(&self, name: &str) -> Arc<str> {
        format!("{}{name}", self.prefix).into()
    }

    /// The stream that only this handler reads: redriven dead letters arrive here.
    pub fn inbox(&self, handler: &str) -> Arc<str> {
        format!("{INBOX_PREFIX}{}{handler}", self.prefix).into()
    }

    /// An intake: the key of its lease, which exists while a worker has it.
    pub fn intake(&self, name: &str) -> Arc<str> {
        format!("wasmill:intake:{}{name}", self.prefix).into()
    }

    /// A stream as the group of a handler reads it.
    pub fn source(&self, name: &str, group: &str) -> Source {
        let key = self.stream(name);
        Source { stream: name.to_owned(), due_key: due(group, &key), key, group: group.into() }
    }

    /// The inbox of a handler as its group reads it.
    pub fn inbox_source(&self, handler: &str, group: &str) -> Source {
        let key = self.inbox(handler);
        Source { stream: key.to_string(), due_key: due(group, &key), key, group: group.into() }
    }
}

/// The sorted set of parked entries of one group on one stream: member entry id, score due time in milliseconds.
fn due(group: &str, key: &str) -> Arc<str> {
    format!("wasmill:due:{group}:{key}").into()
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
}
