//! The state of handlers on its way between broker and guests.

use std::sync::Arc;

use async_trait::async_trait;

use crate::broker::{Broker, BrokerError};
use crate::state::{Home, ReadError, Reader};

/// The state of one handler, read over the connection of a thread.
pub(super) struct BrokerState {
    /// Where it is.
    pub(super) broker: Arc<dyn Broker>,
    /// Which one it is.
    pub(super) home: Arc<Home>,
    /// The last run of the delivery wanted more than the quota.
    pub(super) over_quota: bool,
}

fn read_error(error: BrokerError) -> ReadError {
    ReadError(error.to_string())
}

#[async_trait]
impl Reader for BrokerState {
    async fn values(&self, keys: &[String], most: u64) -> Result<Option<Vec<Option<Vec<u8>>>>, ReadError> {
        self.broker.state_values(&self.home.hash, keys, most).await.map_err(read_error)
    }

    async fn has(&self, key: &str) -> Result<bool, ReadError> {
        self.broker.state_has(&self.home.hash, key).await.map_err(read_error)
    }

    async fn keys(&self, most: usize) -> Result<Option<Vec<String>>, ReadError> {
        self.broker.state_keys(&self.home.hash, most).await.map_err(read_error)
    }

    fn exceeded_quota(&self) -> Option<u64> {
        self.home.quota.filter(|_| self.over_quota)
    }
}
