//! Reading the state of handlers, and what operators write to it. Deliveries write by [`super::Broker::settle`] alone.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::BrokerError;
use crate::state::Home;

/// The state of handlers: one hash each, see [`super::keys::Namespace::state`].
#[async_trait]
pub trait StateStore: Send + Sync {
    /// The values of these keys, in order and in one step; `None` if they have more than `most` bytes together.
    async fn state_values(
        &self,
        hash: &str,
        keys: &[String],
        most: u64,
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, BrokerError>;

    /// Whether there is such a key.
    async fn state_has(&self, hash: &str, key: &str) -> Result<bool, BrokerError>;

    /// All keys, in no order; `None` if there are more than `most`.
    async fn state_keys(&self, hash: &str, most: usize) -> Result<Option<Vec<String>>, BrokerError>;

    /// Sets a value, or with `None` deletes it; `true` if the key was there before, `None` if that is more than the quota
    /// of the tenant. Deliveries that have read it and are not settled are run again.
    async fn state_write(&self, home: &Home, key: &str, value: Option<&[u8]>) -> Result<Option<bool>, BrokerError>;

    /// Deletes all of it; says how many keys there were.
    async fn state_clear(&self, home: &Home) -> Result<u64, BrokerError>;

    /// How many bytes of keys and values the states of a tenant have, by handler; see
    /// [`super::keys::Namespace::state_sizes`].
    async fn state_sizes(&self, sizes: &str) -> Result<BTreeMap<String, u64>, BrokerError>;
}
