//! What a tenant may use of what is shared, asked before something more is written: versions, bytes of streams, dead letters.

use std::collections::BTreeMap;

use bytesize::ByteSize;

use super::versions::parse;
use super::{Operator, OpsError};
use crate::deploy::record::{BEGUN_MS, Record};
use crate::quota::Exceeded;

impl Operator {
    /// Refuses one more deployment if the tenant has made too many within the last minute, or if what it keeps would be too
    /// much with the component of that digest and size. Two requests at the same moment may both be let through.
    pub(super) async fn check_deploy(&self, digest: &str, size: u64, now_ms: u64) -> Result<(), OpsError> {
        let Some(quotas) = &self.tenant.quotas else { return Ok(()) };
        let records = self.own_records().await?;
        let begun = begun(&records, now_ms);
        if begun >= u64::from(quotas.deploys_per_minute) {
            let allowed = quotas.deploys_per_minute;
            return Err(self.over(
                "deploys_per_minute",
                format!("{begun} deployments within the last minute; {allowed} are allowed. Wait a minute"),
            ));
        }
        let kept = self.kept_bytes(&records, Some((digest, size))).await?;
        let allowed = quotas.component_bytes;
        if kept > allowed.as_u64() {
            return Err(self.over(
                "component_bytes",
                format!(
                    "with this component its versions would have {}; {} are allowed. `wasmill gc` deletes those that are not \
                     needed",
                    ByteSize(kept).display().iec(),
                    allowed.display().iec()
                ),
            ));
        }
        Ok(())
    }

    /// Bytes of the components of the tenant's versions that are kept, each once, and of one that is to be added.
    pub(super) async fn kept_bytes(
        &self,
        records: &BTreeMap<String, Record>,
        added: Option<(&str, u64)>,
    ) -> Result<u64, OpsError> {
        let kept = self.broker.components().await?;
        let named = records.values().flat_map(Record::digests);
        let mut sizes: BTreeMap<&str, u64> = named.filter_map(|digest| Some((digest, *kept.get(digest)?))).collect();
        sizes.extend(added);
        Ok(sizes.values().sum())
    }

    /// The records of the tenant's handlers, by what they are called among those of all tenants.
    pub(super) async fn own_records(&self) -> Result<BTreeMap<String, Record>, OpsError> {
        let records = self.broker.records().await?.into_iter();
        let own = records.filter(|(id, _)| self.tenant.namespace.unqualified(id).is_some());
        own.map(|(id, text)| Ok((id, parse(&text)?))).collect()
    }

    /// Refuses publishing more while the tenant has too many bytes in its streams, or too many dead letters.
    pub(super) async fn check_publish(&self, stream: &str) -> Result<(), OpsError> {
        let Some(quotas) = &self.tenant.quotas else { return Ok(()) };
        if quotas.stream_bytes.is_some() && !self.stream_names.iter().any(|name| name == stream) {
            return Err(self.over(
                "stream_bytes",
                format!("`{stream}` would not be counted: publish to a stream that the configuration names"),
            ));
        }
        match self.sampler.usage(&*self.broker, quotas).await?.exceeded(quotas) {
            Some(Exceeded { quota, text }) => Err(self.over(quota, text)),
            None => Ok(()),
        }
    }

    /// Refuses replaying more while the tenant has too many bytes in its streams: inboxes count.
    pub(super) async fn check_replay(&self) -> Result<(), OpsError> {
        let Some(quotas) = &self.tenant.quotas else { return Ok(()) };
        match self.sampler.usage(&*self.broker, quotas).await?.exceeded(quotas) {
            Some(Exceeded { quota: quota @ "stream_bytes", text }) => Err(self.over(quota, text)),
            // How many dead letters there are is no matter of what is run again.
            _ => Ok(()),
        }
    }

    fn over(&self, quota: &'static str, text: String) -> OpsError {
        OpsError::Quota { tenant: self.tenant.namespace.tenant().to_string(), quota, text }
    }
}

/// Rollouts that have begun within the minute before that time.
pub(super) fn begun(records: &BTreeMap<String, Record>, now_ms: u64) -> u64 {
    let since = now_ms.saturating_sub(BEGUN_MS);
    records.values().map(|record| record.begun_since(since).count() as u64).sum()
}
