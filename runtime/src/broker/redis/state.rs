//! The state of handlers.

use std::collections::BTreeMap;

use async_trait::async_trait;

use ::redis::{Value, from_redis_value};

use super::super::{BrokerError, StateStore};
use super::script::Script;
use super::{RedisBroker, reply, settle};
use crate::state::Home;

#[async_trait]
impl StateStore for RedisBroker {
    async fn state_values(
        &self,
        hash: &str,
        keys: &[String],
        most: u64,
    ) -> Result<Option<Vec<Option<Vec<u8>>>>, BrokerError> {
        let reply = Script::StateValues
            .run(&self.requests, &[hash], |command| {
                command.arg(most).arg(keys);
            })
            .await?;
        match reply {
            Value::Nil => Ok(None),
            values => from_redis_value(values).map(Some).map_err(reply::unexpected),
        }
    }

    async fn state_has(&self, hash: &str, key: &str) -> Result<bool, BrokerError> {
        self.requests.query(::redis::cmd("HEXISTS").arg(hash).arg(key)).await
    }

    async fn state_keys(&self, hash: &str, most: usize) -> Result<Option<Vec<String>>, BrokerError> {
        // Two steps: a hash that grows in between is bounded all the same.
        let count: usize = self.requests.query(::redis::cmd("HLEN").arg(hash)).await?;
        match count {
            0 => Ok(Some(Vec::new())),
            _ if count > most => Ok(None),
            _ => self.requests.query(::redis::cmd("HKEYS").arg(hash)).await.map(Some),
        }
    }

    async fn state_write(&self, home: &Home, key: &str, value: Option<&[u8]>) -> Result<Option<bool>, BrokerError> {
        let reply = Script::StateWrite
            .run(&self.requests, &[&home.hash, &home.sizes], |command| {
                command.arg(&*home.handler).arg(settle::quota(home)).arg(u8::from(value.is_some())).arg(key);
                command.arg(value.unwrap_or_default());
            })
            .await?;
        match reply {
            Value::Int(2) => Ok(None),
            Value::Int(existed) => Ok(Some(existed == 1)),
            _ => Err(reply::unexpected("a result that is no number")),
        }
    }

    async fn state_clear(&self, home: &Home) -> Result<u64, BrokerError> {
        let keys = [&*home.hash, &home.sizes];
        let reply = Script::StateClear.run(&self.requests, &keys, |command| {
            command.arg(&*home.handler);
        });
        from_redis_value(reply.await?).map_err(reply::unexpected)
    }

    async fn state_sizes(&self, sizes: &str) -> Result<BTreeMap<String, u64>, BrokerError> {
        self.requests.query(::redis::cmd("HGETALL").arg(sizes)).await
    }
}
