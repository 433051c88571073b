//! Being told which streams have changed, without asking for each of them again and again.

use std::sync::Arc;

use async_trait::async_trait;

use super::{BrokerError, Cursor};

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These streams. They are not watched any more.
    Streams(Vec<Arc<str>>),
    /// Perhaps all of them: nothing is watched any more.
    All,
}

/// Watches any number of streams at a cost that depends on how often they change, not on how many there are.
#[async_trait]
pub trait Watcher: Send {
    /// Watches these streams as well, each until it has changed once. Returns those that have an entry after their cursor
    /// already, or cannot be looked at; their cursors are the newest entries. Those may be told of once more.
    async fn watch(&mut self, cursors: &[Cursor]) -> Result<Vec<Cursor>, BrokerError>;

    /// Waits until something has changed. May be dropped at any time without missing anything.
    async fn changed(&mut self) -> Result<Changed, BrokerError>;

    /// Fails if changes would not be heard of.
    async fn check(&mut self) -> Result<(), BrokerError>;
}
