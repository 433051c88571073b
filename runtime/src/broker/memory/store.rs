//! Components and the records of deployments.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;

use super::super::store::Store;
use super::super::{BrokerError, Entry, EntryId, Fields, keys};
use super::MemoryBroker;
use crate::audit::max_lines;
use crate::clock::now_ms;

/// All that [`Store`] keeps.
#[derive(Default)]
pub(super) struct Shelf {
    components: BTreeMap<String, Arc<[u8]>>,
    records: BTreeMap<String, String>,
    revision: u64,
    reports: HashMap<String, BTreeMap<String, String>>,
}

#[async_trait]
impl Store for MemoryBroker {
    async fn time_ms(&self) -> Result<u64, BrokerError> {
        Ok(now_ms())
    }

    async fn write_audit(&self, tenant: &str, line: &Fields) -> Result<EntryId, BrokerError> {
        let (key, mut state) = (keys::audit(tenant), self.state());
        let id = state.append(&key, line.clone());
        state.cut(&key, max_lines(tenant));
        Ok(id)
    }

    async fn audit(&self, tenant: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        Ok(self.state().range(&keys::audit(tenant), from, to, count, true))
    }

    async fn put_component(&self, digest: &str, bytes: &[u8]) -> Result<(), BrokerError> {
        self.shelf().components.insert(digest.to_owned(), bytes.into());
        Ok(())
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        let component = self.shelf().components.get(digest).cloned();
        Ok(component.map(|bytes| bytes.to_vec()))
    }

    async fn components(&self) -> Result<BTreeMap<String, u64>, BrokerError> {
        let sizes = |(digest, bytes): (&String, &Arc<[u8]>)| (digest.clone(), bytes.len() as u64);
        Ok(self.shelf().components.iter().map(sizes).collect())
    }

    async fn remove_component(&self, digest: &str) -> Result<bool, BrokerError> {
        Ok(self.shelf().components.remove(digest).is_some())
    }

    async fn records(&self) -> Result<BTreeMap<String, String>, BrokerError> {
        Ok(self.shelf().records.clone())
    }

    async fn records_revision(&self) -> Result<u64, BrokerError> {
        Ok(self.shelf().revision)
    }

    async fn change_record(&self, handler: &str, before: Option<&str>, after: &str) -> Result<bool, BrokerError> {
        let mut shelf = self.shelf();
        if shelf.records.get(handler).map(String::as_str) != before {
            return Ok(false);
        }
        shelf.records.insert(handler.to_owned(), after.to_owned());
        shelf.revision += 1;
        Ok(true)
    }

    async fn report(&self, handler: &str, worker: &str, report: &str) -> Result<(), BrokerError> {
        let mut shelf = self.shelf();
        shelf.reports.entry(handler.to_owned()).or_default().insert(worker.to_owned(), report.to_owned());
        Ok(())
    }

    async fn reports(&self, handler: &str) -> Result<BTreeMap<String, String>, BrokerError> {
        Ok(self.shelf().reports.get(handler).cloned().unwrap_or_default())
    }

    async fn forget_reports(&self, handler: &str, workers: &[String]) -> Result<(), BrokerError> {
        if let Some(reports) = self.shelf().reports.get_mut(handler) {
            reports.retain(|worker, _| !workers.contains(worker));
        }
        Ok(())
    }
}
