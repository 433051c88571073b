//! What handlers remember between events: looking at it, and changing it.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Operator, OpsError, RawBytes};
use crate::audit::Verb;
use crate::state::{Home, check_key};

/// The most keys of a state that can be listed: all of them are asked for in one step.
const MAX_KEYS: usize = 100_000;
/// The most keys that one answer names.
const MAX_LIMIT: usize = 10_000;

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StateQuery {
    /// Only keys that begin with this
    pub prefix: String,
    /// The most keys to name, in order, at most 10,000
    pub limit: usize,
}

impl Default for StateQuery {
    fn default() -> StateQuery {
        StateQuery { prefix: String::new(), limit: 100 }
    }
}

/// Which key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StateKey {
    /// The key
    pub key: String,
}

/// The keys in the state of a handler.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct StateReport {
    /// The handler.
    pub handler: String,
    /// Bytes of all keys and values in it: they count against `quotas.state_bytes` of the tenant.
    pub bytes: u64,
    /// Keys that fit.
    pub total: usize,
    /// The first of them, in order.
    pub keys: Vec<String>,
}

/// A value in the state of a handler.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct StateValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: RawBytes,
}

/// A change of the state of a handler.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StateWrite {
    /// The key.
    pub key: String,
    /// The new value; without one, the key is deleted.
    #[serde(default)]
    pub value: Option<RawBytes>,
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct StateWritten {
    /// The key.
    pub key: String,
    /// Whether it was there before.
    pub existed: bool,
}

/// What is left after a state was cleared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct StateCleared {
    /// The handler.
    pub handler: String,
    /// Keys that were deleted.
    pub keys: u64,
}

impl Operator {
    /// Where the state of a handler lies.
    fn home(&self, handler: &str) -> Home {
        self.tenant.namespace.state(handler, self.tenant.state_quota())
    }

    /// The keys in the state of a handler.
    pub async fn state(&self, handler: &str, query: &StateQuery) -> Result<StateReport, OpsError> {
        if !(1..=MAX_LIMIT).contains(&query.limit) {
            return Err(OpsError::Invalid(format!("limit {}: from 1 to {MAX_LIMIT}", query.limit)));
        }
        let handler = &self.handler(handler)?.name;
        let home = self.home(handler);
        let bytes = self.broker.state_sizes(&home.sizes).await?.remove(handler).unwrap_or_default();
        let keys = self.broker.state_keys(&home.hash, MAX_KEYS).await?;
        let mut keys = keys.ok_or_else(|| {
            let problem = format!("the state of {handler} has more than {MAX_KEYS} keys, which cannot be listed");
            OpsError::TooLarge(format!("{problem}; ask for a key by its name"))
        })?;
        keys.retain(|key| key.starts_with(&query.prefix));
        keys.sort_unstable();
        let total = keys.len();
        keys.truncate(query.limit);
        Ok(StateReport { handler: handler.clone(), bytes, total, keys })
    }

    /// A value in the state of a handler.
    pub async fn state_value(&self, handler: &str, key: &str) -> Result<StateValue, OpsError> {
        check_key(key).map_err(OpsError::Invalid)?;
        let handler = &self.handler(handler)?.name;
        let keys = [key.to_owned()];
        let values = self.broker.state_values(&self.home(handler).hash, &keys, u64::from(u32::MAX)).await?;
        let unknown = || OpsError::UnknownStateKey { handler: handler.clone(), key: key.to_owned() };
        let value = values.into_iter().flatten().next().flatten().ok_or_else(unknown)?;
        Ok(StateValue { key: key.to_owned(), value: RawBytes::new(&value) })
    }

    /// Sets a value in the state of a handler, or deletes it. Deliveries that have read it and are not settled are run
    /// again.
    pub async fn write_state(&self, handler: &str, write: &StateWrite) -> Result<StateWritten, OpsError> {
        check_key(&write.key).map_err(OpsError::Invalid)?;
        let handler = self.handler(handler)?;
        let value = write.value.as_ref().map(RawBytes::bytes).transpose().map_err(OpsError::Invalid)?;
        let (bytes, limit) = (write.key.len() + value.as_ref().map_or(0, Vec::len), handler.limits.state_bytes);
        if value.is_some() && bytes > limit {
            let problem =
                format!("key and value have {bytes} bytes; limits.state_bytes of {} is {limit}", handler.name);
            return Err(OpsError::TooLarge(format!("{problem}: it could not read them")));
        }
        let home = self.home(&handler.name);
        // What is in a value is no business of who reads the audit log.
        let what = match &value {
            Some(value) => format!("set {:?} to {} bytes", write.key, value.len()),
            None => format!("delete {:?}", write.key),
        };
        let work = async {
            let existed = self.broker.state_write(&home, &write.key, value.as_deref()).await?;
            let over = || self.over_state_quota(&home);
            Ok(StateWritten { key: write.key.clone(), existed: existed.ok_or_else(over)? })
        };
        let told =
            |written: &StateWritten| if written.existed { "it was there" } else { "it was not there" }.to_owned();
        self.audited((Verb::State, &handler.name), what, work, told).await
    }

    /// Bytes of keys and values in the states of all handlers of the tenant, also of those that are not configured any more.
    pub async fn state_bytes(&self) -> Result<u64, OpsError> {
        Ok(self.broker.state_sizes(&self.tenant.namespace.state_sizes()).await?.into_values().sum())
    }

    fn over_state_quota(&self, home: &Home) -> OpsError {
        let quota = home.quota.unwrap_or_default();
        let text = format!("the states of its handlers may have {quota} bytes, and would have more; delete some keys");
        OpsError::Quota { tenant: self.tenant().to_owned(), quota: "state_bytes", text }
    }

    /// Deletes the whole state of a handler, also of one that is not configured any more. Deliveries that have read it and
    /// are not settled are run again.
    pub async fn clear_state(&self, handler: &str) -> Result<StateCleared, OpsError> {
        let home = self.home(handler);
        if !self.broker.state_sizes(&home.sizes).await?.contains_key(handler) {
            self.handler(handler)?;
        }
        let work = async {
            let keys = self.broker.state_clear(&home).await?;
            Ok(StateCleared { handler: handler.to_owned(), keys })
        };
        let told = |cleared: &StateCleared| format!("{} keys", cleared.keys);
        self.audited((Verb::ClearState, handler), String::new(), work, told).await
    }
}
