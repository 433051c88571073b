//! What the fleet has said, asked for no more often than it can have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::broker::{BrokerError, Operate};
use crate::fleet::WorkerReport;

/// How often all records are read though nothing says that one has changed: whoever has written one by hand is noticed then.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// How long it is taken as known which workers there are, while something is rolled out.
const WORKERS_KNOWN: Duration = Duration::from_millis(200);

/// The records of all handlers, as they were read last.
#[derive(Default)]
pub(super) struct Records {
    texts: BTreeMap<String, String>,
    /// The number of changes before they were read, and when that was.
    read: Option<(u64, Instant)>,
}

impl Records {
    /// Reads them, if one has changed; the names of handlers whose records are others than before.
    pub(super) async fn refresh(&mut self, store: &dyn Operate) -> Result<BTreeSet<String>, BrokerError> {
        // Asked for first: what changes in between is read once more.
        let revision = store.records_revision().await?;
        if self.read.is_some_and(|(read, when)| read == revision && when.elapsed() < READ_AGAIN) {
            return Ok(BTreeSet::new());
        }
        let before = std::mem::replace(&mut self.texts, store.records().await?);
        self.read = Some((revision, Instant::now()));
        let names = before.keys().chain(self.texts.keys());
        Ok(names.filter(|name| before.get(*name) != self.texts.get(*name)).cloned().collect())
    }

    /// The record of a handler.
    pub(super) fn get(&self, handler: &str) -> Option<&str> {
        self.texts.get(handler).map(String::as_str)
    }
}

/// The workers that are alive, with the handlers that they serve.
#[derive(Default)]
pub(super) struct Workers {
    known: Vec<(String, BTreeSet<String>)>,
    read: Option<Instant>,
}

impl Workers {
    /// Those that serve the handler.
    pub(super) async fn that_serve(&mut self, handler: &str, store: &dyn Operate) -> Result<Vec<String>, BrokerError> {
        if self.read.is_none_or(|read| read.elapsed() >= WORKERS_KNOWN) {
            let workers = store.workers().await?.into_iter();
            let read = |(worker, report): (String, String)| {
                let report: WorkerReport = serde_json::from_str(&report).ok()?;
                Some((worker, report.handlers.into_keys().collect()))
            };
            self.known = workers.filter_map(read).collect();
            self.read = Some(Instant::now());
        }
        let serving = self.known.iter().filter(|(_, handlers)| handlers.contains(handler));
        Ok(serving.map(|(worker, _)| worker.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::memory::MemoryBroker;
    use crate::broker::store::Store;

    #[tokio::test]
    async fn records_are_read_again_when_one_has_changed_and_say_which() {
        let (store, mut records) = (MemoryBroker::new(), Records::default());
        for (handler, text) in [("a", "1"), ("b", "1")] {
            assert!(store.change_record(handler, None, text).await.unwrap());
        }
        assert_eq!(records.refresh(&store).await.unwrap(), ["a", "b"].map(str::to_owned).into());
        assert_eq!(records.refresh(&store).await.unwrap(), BTreeSet::new());
        assert!(store.change_record("b", Some("1"), "2").await.unwrap());
        assert_eq!(records.refresh(&store).await.unwrap(), ["b".to_owned()].into());
        assert_eq!((records.get("a"), records.get("b"), records.get("c")), (Some("1"), Some("2"), None));
    }
}
