//! Tenants, and what they use of what they may.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::quotas::begun;
use super::{Operator, Operators, OpsError};
use crate::config::Tenant;

/// A tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct TenantReport {
    /// Its name.
    pub tenant: String,
    /// What its keys in Redis begin with; empty for `default`.
    pub prefix: String,
    /// How much of the time it gets beside others.
    pub weight: u32,
    /// The Redis user that works for it; absent if that is the one of the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_user: Option<String>,
    /// Its handlers, in order.
    pub handlers: Vec<String>,
    /// Why it is not served; absent if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// What a tenant uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct UsageReport {
    /// The tenant.
    #[serde(flatten)]
    pub tenant: TenantReport,
    /// Each quota.
    pub quotas: Vec<QuotaUsage>,
}

/// A quota and what is used of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct QuotaUsage {
    /// Its name in `[tenants.NAME.quotas]`.
    pub quota: String,
    /// What is counted: `bytes`, `ms`, or things.
    pub unit: String,
    /// What is used now, on the whole fleet; absent if that is known to each worker alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// What may be used; absent if there is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl TenantReport {
    /// One that nothing is wrong with. The handlers in order.
    pub fn new<'a>(tenant: &Tenant, handlers: impl Iterator<Item = &'a str>) -> TenantReport {
        TenantReport {
            tenant: tenant.name.clone(),
            prefix: tenant.namespace.prefix().to_owned(),
            weight: tenant.weight,
            redis_user: tenant.redis.username.clone(),
            handlers: handlers.map(str::to_owned).collect(),
            fault: None,
        }
    }
}

impl Operators {
    /// All tenants that are served, in order.
    pub fn reports(&self) -> Vec<TenantReport> {
        self.0.values().map(Operator::tenant_report).collect()
    }
}

impl Operator {
    /// The tenant that it works for.
    pub fn tenant_report(&self) -> TenantReport {
        TenantReport::new(&self.tenant, self.handlers.iter().map(|handler| handler.name.as_str()))
    }

    /// What its tenant uses, beside what it may use.
    pub async fn usage(&self) -> Result<UsageReport, OpsError> {
        let quotas = self.tenant.quotas.as_ref();
        let row = |quota: &str, unit: &str, used, limit| QuotaUsage {
            quota: quota.to_owned(),
            unit: unit.to_owned(),
            used,
            limit,
        };
        let records = self.own_records().await?;
        let now_ms = self.broker.time_ms().await?;
        let (counted, broker) = (self.sampler.counted(), &*self.broker);
        let bytes = |size: Option<bytesize::ByteSize>| size.map(|size| size.as_u64());
        let quotas = vec![
            row("cpu_per_minute", "ms", None, quotas.and_then(|q| q.cpu_per_minute).map(|cpu| cpu.as_millis() as u64)),
            row("events_in", "events/s", None, quotas.and_then(|q| q.events_in).map(u64::from)),
            row("events_out", "events/s", None, quotas.and_then(|q| q.events_out).map(u64::from)),
            row("concurrency", "deliveries", None, quotas.map(|q| q.concurrency as u64)),
            row(
                "stream_bytes",
                "bytes",
                counted.stream_bytes(broker).await?,
                bytes(quotas.and_then(|q| q.stream_bytes)),
            ),
            row(
                "dead_letters",
                "events",
                Some(counted.dead_letters(broker).await?),
                quotas.and_then(|q| q.dead_letters),
            ),
            row("state_bytes", "bytes", Some(self.state_bytes().await?), bytes(quotas.and_then(|q| q.state_bytes))),
            row(
                "component_bytes",
                "bytes",
                Some(self.kept_bytes(&records, None).await?),
                bytes(quotas.map(|q| q.component_bytes)),
            ),
            row(
                "deploys_per_minute",
                "deployments",
                Some(begun(&records, now_ms)),
                quotas.map(|q| u64::from(q.deploys_per_minute)),
            ),
        ];
        Ok(UsageReport { tenant: self.tenant_report(), quotas })
    }
}
