//! What the fleet shares about versions: the components, and a record per handler of which one serves. And the log of who
//! has changed what.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{BrokerError, Entry, EntryId, Fields};

/// A place for components and records that all workers see. Digests are 64 hexadecimal digits.
#[async_trait]
pub trait Store: Send + Sync {
    /// The time that all workers go by, in milliseconds since the Unix epoch.
    async fn time_ms(&self) -> Result<u64, BrokerError>;

    /// Appends a line to the audit log of a tenant, also when memory is full; it keeps about [`crate::audit::max_lines`].
    async fn write_audit(&self, tenant: &str, line: &Fields) -> Result<EntryId, BrokerError>;

    /// Up to `count` lines of the audit log of a tenant from `to` down to `from`, newest first.
    async fn audit(&self, tenant: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError>;

    /// Keeps the bytes of a component. Keeping them twice changes nothing.
    async fn put_component(&self, digest: &str, bytes: &[u8]) -> Result<(), BrokerError>;

    /// The bytes of a component, if they are kept.
    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, BrokerError>;

    /// The components that are kept, and their sizes in bytes. One is missing its bytes if whoever kept it died meanwhile.
    async fn components(&self) -> Result<BTreeMap<String, u64>, BrokerError>;

    /// Deletes a component; `false` if there was none.
    async fn remove_component(&self, digest: &str) -> Result<bool, BrokerError>;

    /// The records of all handlers that have one, as they were written.
    async fn records(&self) -> Result<BTreeMap<String, String>, BrokerError>;

    /// A number that is another one after any record has changed.
    async fn records_revision(&self) -> Result<u64, BrokerError>;

    /// Writes the record of a handler if it still is `before` (`None`: if there is none), in one step; says whether it did.
    async fn change_record(&self, handler: &str, before: Option<&str>, after: &str) -> Result<bool, BrokerError>;

    /// Notes how far a worker has come with a deployment of the handler; replaces what it said before.
    async fn report(&self, handler: &str, worker: &str, report: &str) -> Result<(), BrokerError>;

    /// What workers have said about deployments of the handler, by worker.
    async fn reports(&self, handler: &str) -> Result<BTreeMap<String, String>, BrokerError>;

    /// Forgets what these workers have said.
    async fn forget_reports(&self, handler: &str, workers: &[String]) -> Result<(), BrokerError>;
}
