//! Every Redis key and field that wasmill makes up, in one place.
//!
//! The streams of the tenant `default` are the Redis keys of the same name, so that wasmill works on the streams that
//! are already there. All that wasmill adds lies under `wasmill:`.

use std::sync::Arc;

use super::Source;

/// The tenant of everything that names none.
pub const DEFAULT_TENANT: &str = "default";

/// The consumer that holds the entries which wait for another attempt. It never reads.
pub const PARKED_CONSUMER: &str = "wasmill-parked";

/// What the names of wasmill's own consumers begin with. Consumers with other names belong to other programs.
pub const CONSUMER_PREFIX: &str = "wasmill-";

/// The key of a stream of the default tenant.
pub fn stream(name: &str) -> Arc<str> {
    name.into()
}

/// The sorted set of parked entries of one group on one stream: member entry id, score due time in milliseconds.
pub fn due(group: &str, stream: &str) -> Arc<str> {
    format!("wasmill:due:{group}:{stream}").into()
}

/// The stream that only this handler reads: redriven dead letters arrive here.
pub fn inbox(handler: &str) -> Arc<str> {
    format!("wasmill:inbox:{handler}").into()
}

/// The heartbeat of a worker: exists while the worker lives.
pub fn heartbeat(worker: &str) -> String {
    format!("wasmill:worker:{worker}")
}

/// The worker that a consumer belongs to: consumers are named `WORKER.THREAD`. `None` for other programs' consumers.
pub fn worker_of(consumer: &str) -> Option<&str> {
    let (worker, _) = consumer.rsplit_once('.')?;
    (worker.starts_with(CONSUMER_PREFIX)).then_some(worker)
}

/// The name of the dead-letter stream of a handler that does not set `dead_letter`.
pub fn default_dead_letter(handler: &str) -> String {
    format!("{handler}.dead")
}

/// A stream as the group of a handler reads it.
pub fn source(name: &str, handler: &str) -> Source {
    Source { stream: name.to_owned(), key: stream(name), group: handler.into(), due_key: due(handler, name) }
}

/// The inbox as its handler reads it.
pub fn inbox_source(handler: &str) -> Source {
    let key = inbox(handler);
    Source { stream: key.to_string(), due_key: due(handler, &key), key, group: handler.into() }
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
