//! The state of handlers, in memory.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;

use super::super::{BrokerError, StateStore};
use super::MemoryBroker;
use crate::state::{Changes, Home, StateChange};

/// The states, by the keys of their hashes, and how large those of each tenant are.
#[derive(Default)]
pub(super) struct Values {
    hashes: HashMap<String, BTreeMap<String, Vec<u8>>>,
    /// Bytes of keys and values by handler, by the key of the sizes.
    sizes: HashMap<String, BTreeMap<String, u64>>,
}

impl Values {
    fn get(&self, hash: &str, key: &str) -> Option<&[u8]> {
        self.hashes.get(hash)?.get(key).map(Vec::as_slice)
    }

    /// Whether everything that was seen would be seen again.
    pub(super) fn still_holds(&self, change: &StateChange) -> bool {
        let StateChange { home, changes: Changes { seen, listed, .. } } = change;
        let same_keys = listed.as_ref().is_none_or(|keys| {
            let count = self.hashes.get(&*home.hash).map_or(0, BTreeMap::len);
            count == keys.len() && keys.iter().all(|key| self.get(&home.hash, key).is_some())
        });
        same_keys && seen.iter().all(|(key, seen)| seen.still_holds(self.get(&home.hash, key)))
    }

    /// How many bytes a key has with this value more than with the one that is there.
    fn growth(&self, home: &Home, key: &str, value: Option<&[u8]>) -> i64 {
        let size = |value: Option<&[u8]>| value.map_or(0, |value| (key.len() + value.len()) as i64);
        size(value) - size(self.get(&home.hash, key))
    }

    /// Whether the states of the tenant would have more bytes than its quota with so many more.
    fn exceeds(&self, home: &Home, more: i64) -> bool {
        let Some(quota) = home.quota else { return false };
        let total: u64 = self.sizes.get(&*home.sizes).map_or(0, |sizes| sizes.values().sum());
        more > 0 && total.saturating_add_signed(more) > quota
    }

    /// Whether the writes are more than the quota of the tenant.
    pub(super) fn is_over_quota(&self, change: &StateChange) -> bool {
        let StateChange { home, changes } = change;
        let more = changes.writes.iter().map(|(key, value)| self.growth(home, key, value.as_deref())).sum();
        self.exceeds(home, more)
    }

    /// Sets or deletes a value; whether it was there.
    fn write(&mut self, home: &Home, key: &str, value: Option<&[u8]>) -> bool {
        let more = self.growth(home, key, value);
        let sizes = self.sizes.entry(home.sizes.to_string()).or_default();
        let size = sizes.entry(home.handler.to_string()).or_default();
        *size = size.saturating_add_signed(more);
        let values = self.hashes.entry(home.hash.to_string()).or_default();
        let before = match value {
            Some(value) => values.insert(key.to_owned(), value.to_vec()),
            None => values.remove(key),
        };
        before.is_some()
    }

    pub(super) fn apply(&mut self, change: &StateChange) {
        for (key, value) in &change.changes.writes {
            self.write(&change.home, key, value.as_deref());
        }
    }
}

#[async_trait]
impl StateStore for MemoryBroker {
    async fn state_values(
        &self,
        hash: &str,
        keys: &[String],
        most: u64,
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, BrokerError> {
        let state = self.state();
        let values = keys.iter().map(|key| state.values.get(hash, key));
        let bytes: usize = values.clone().flatten().map(<[u8]>::len).sum();
        Ok((bytes as u64 <= most).then(|| values.map(|value| value.map(<[u8]>::to_vec)).collect()))
    }

    async fn state_has(&self, hash: &str, key: &str) -> Result<bool, BrokerError> {
        Ok(self.state().values.get(hash, key).is_some())
    }

    async fn state_keys(&self, hash: &str, most: usize) -> Result<Option<Vec<String>>, BrokerError> {
        let state = self.state();
        let Some(values) = state.values.hashes.get(hash) else { return Ok(Some(Vec::new())) };
        Ok((values.len() <= most).then(|| values.keys().cloned().collect()))
    }

    async fn state_write(&self, home: &Home, key: &str, value: Option<&[u8]>) -> Result<Option<bool>, BrokerError> {
        let values = &mut self.state().values;
        let is_over = values.exceeds(home, values.growth(home, key, value));
        Ok((!is_over).then(|| values.write(home, key, value)))
    }

    async fn state_clear(&self, home: &Home) -> Result<u64, BrokerError> {
        let values = &mut self.state().values;
        if let Some(sizes) = values.sizes.get_mut(&*home.sizes) {
            sizes.remove(&*home.handler);
        }
        Ok(values.hashes.remove(&*home.hash).map_or(0, |values| values.len() as u64))
    }

    async fn state_sizes(&self, sizes: &str) -> Result<BTreeMap<String, u64>, BrokerError> {
        Ok(self.state().values.sizes.get(sizes).cloned().unwrap_or_default())
    }
}
