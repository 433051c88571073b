//! Components and the records of deployments.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::super::store::Store;
use super::super::{BrokerError, Entry, EntryId, Fields, keys};
use super::script::Script;
use super::{RedisBroker, reply};
use crate::audit::max_lines;

#[async_trait]
impl Store for RedisBroker {
    async fn time_ms(&self) -> Result<u64, BrokerError> {
        let (seconds, micros): (u64, u64) = self.own.query(&::redis::cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    async fn write_audit(&self, tenant: &str, line: &Fields) -> Result<EntryId, BrokerError> {
        let arguments = |command: &mut ::redis::Cmd| {
            command.arg(max_lines(tenant));
            for (name, value) in line {
                command.arg(name).arg(value);
            }
        };
        let id = Script::Audit.run(&self.own, &[&keys::audit(tenant)], arguments).await?;
        let id: String = ::redis::from_redis_value(id).map_err(reply::unexpected)?;
        id.parse().map_err(reply::unexpected)
    }

    async fn audit(&self, tenant: &str, from: EntryId, to: EntryId, count: usize) -> Result<Vec<Entry>, BrokerError> {
        let mut command = ::redis::cmd("XREVRANGE");
        command.arg(keys::audit(tenant)).arg(to.to_string()).arg(from.to_string()).arg("COUNT").arg(count);
        reply::entries(self.own.query(&command).await?, 0)
    }

    async fn put_component(&self, digest: &str, bytes: &[u8]) -> Result<(), BrokerError> {
        // Listed first and removed last: whoever dies in between leaves nothing that is not found. Listed again, as it may
        // have been removed before its bytes came.
        let list = || {
            let mut list = ::redis::cmd("HSET");
            list.arg(keys::COMPONENTS).arg(digest).arg(bytes.len());
            list
        };
        self.own.query::<()>(&list()).await?;
        self.own.query::<()>(::redis::cmd("SET").arg(keys::component(digest)).arg(bytes)).await?;
        self.own.query(&list()).await
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        self.own.query(::redis::cmd("GET").arg(keys::component(digest))).await
    }

    async fn components(&self) -> Result<BTreeMap<String, u64>, BrokerError> {
        self.own.query(::redis::cmd("HGETALL").arg(keys::COMPONENTS)).await
    }

    async fn remove_component(&self, digest: &str) -> Result<bool, BrokerError> {
        let removed: usize = self.own.query(::redis::cmd("DEL").arg(keys::component(digest))).await?;
        self.own.query::<()>(::redis::cmd("HDEL").arg(keys::COMPONENTS).arg(digest)).await?;
        Ok(removed > 0)
    }

    async fn records(&self) -> Result<BTreeMap<String, String>, BrokerError> {
        self.own.query(::redis::cmd("HGETALL").arg(keys::DEPLOYMENTS)).await
    }

    async fn records_revision(&self) -> Result<u64, BrokerError> {
        let revision: Option<u64> = self.own.query(::redis::cmd("GET").arg(keys::DEPLOYMENTS_REVISION)).await?;
        Ok(revision.unwrap_or(0))
    }

    async fn change_record(&self, handler: &str, before: Option<&str>, after: &str) -> Result<bool, BrokerError> {
        let reply = Script::ChangeRecord
            .run(&self.own, &[keys::DEPLOYMENTS, keys::DEPLOYMENTS_REVISION], |command| {
                command.arg(handler).arg(before.unwrap_or_default()).arg(after);
            })
            .await?;
        Ok(reply == ::redis::Value::Int(1))
    }

    async fn report(&self, handler: &str, worker: &str, report: &str) -> Result<(), BrokerError> {
        let mut command = ::redis::cmd("HSET");
        self.own.query(command.arg(keys::deployment_reports(handler)).arg(worker).arg(report)).await
    }

    async fn reports(&self, handler: &str) -> Result<BTreeMap<String, String>, BrokerError> {
        self.own.query(::redis::cmd("HGETALL").arg(keys::deployment_reports(handler))).await
    }

    async fn forget_reports(&self, handler: &str, workers: &[String]) -> Result<(), BrokerError> {
        if workers.is_empty() {
            return Ok(());
        }
        self.own.query(::redis::cmd("HDEL").arg(keys::deployment_reports(handler)).arg(workers)).await
    }
}
