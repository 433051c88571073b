//! Tenants that have too much in Redis wait: their handlers begin nothing, and their events stay where they are.
//!
//! What is measured is the whole fleet's. Each worker measures for itself, and comes to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::roster::{Member, Roster};
use super::threads::Threads;
use super::{Command, Deployment};
use crate::broker::{BrokerError, Inspect};
use crate::quota::{Counted, Exceeded};
use crate::wasm::Grants;

/// How often a worker measures: what comes within that time may be over the quota.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often tenants came to wait, by tenant and quota.
#[derive(Debug, Default)]
pub struct QuotaWaits(Mutex<BTreeMap<(Arc<str>, &'static str), u64>>);

impl QuotaWaits {
    fn add(&self, tenant: &Arc<str>, quota: &'static str) {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *waits.entry((tenant.clone(), quota)).or_default() += 1;
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<(Arc<str>, &'static str), u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Measures again and again what tenants have that are bounded, and has the handlers of those wait that have too much, until
/// the future is dropped. While the broker does not answer, everything stays as it is.
pub(super) async fn follow(broker: &dyn Inspect, roster: &Roster, threads: &Threads) {
    let mut over: BTreeMap<Arc<str>, Exceeded> = BTreeMap::new();
    loop {
        let served = roster.now();
        let mut tenants: BTreeMap<Arc<str>, Vec<&Member>> = BTreeMap::new();
        for member in served.members() {
            tenants.entry(member.deployment.tenant.clone()).or_default().push(member);
        }
        over.retain(|tenant, _| tenants.contains_key(tenant));
        for (tenant, members) in tenants {
            match measure(broker, &members).await {
                Ok(now) => {
                    tell(&tenant, over.get(&tenant), now.as_ref(), &served.quota_waits);
                    for member in members {
                        let has_to_wait = now.as_ref().is_some_and(|exceeded| waits(&member.deployment, exceeded));
                        if member.set_over_quota(has_to_wait) {
                            let handler = member.deployment.id.clone();
                            threads.tell_all(&Command::Pause { handler, paused: member.is_held() });
                        }
                    }
                    match now {
                        Some(exceeded) => drop(over.insert(tenant, exceeded)),
                        None => drop(over.remove(&tenant)),
                    }
                }
                Err(error) => tracing::debug!(tenant = &*tenant, "cannot see what it has: {error}"),
            }
        }
        // Spread over the workers, so that they do not all measure at the same moment.
        tokio::time::sleep(INTERVAL.mul_f64(0.75 + 0.5 * rand::random::<f64>())).await;
    }
}

/// The quota that the tenant of these handlers has used up.
async fn measure(broker: &dyn Inspect, members: &[&Member]) -> Result<Option<Exceeded>, BrokerError> {
    let Some(quotas) = members.iter().find_map(|member| member.deployment.quotas.as_ref()) else { return Ok(None) };
    if quotas.stream_bytes.is_none() && quotas.dead_letters.is_none() {
        return Ok(None);
    }
    let usage = counted(members).measure(broker, quotas).await?;
    Ok(usage.exceeded(quotas))
}

/// What the handlers read and write, but for what belongs to other tenants.
fn counted(members: &[&Member]) -> Counted {
    let (mut keys, mut dead) = (BTreeSet::new(), BTreeSet::new());
    for member in members {
        let deployment = &member.deployment;
        let namespace = &deployment.namespace;
        let read = deployment.sources.iter().filter(|source| source.is_inbox || namespace.is_own(&source.stream));
        keys.extend(read.map(|source| source.key.clone()));
        if let Grants::Named(grants) = &deployment.slot.current().handler.policy.grants {
            let own = grants.iter().filter(|grant| namespace.is_own(&grant.stream));
            keys.extend(own.map(|grant| grant.key.clone()));
        }
        keys.extend([deployment.dead_key.clone(), namespace.delayed()]);
        dead.insert(deployment.dead_key.clone());
    }
    Counted { keys: keys.into_iter().collect(), dead: dead.into_iter().collect() }
}

/// Whether a handler has to wait because of a quota. One that publishes nothing makes room in streams: what it has handled may
/// be trimmed.
fn waits(deployment: &Deployment, exceeded: &Exceeded) -> bool {
    let grants = &deployment.slot.current().handler.policy.grants;
    let publishes = !matches!(grants, Grants::Named(grants) if grants.is_empty());
    publishes || exceeded.quota != "stream_bytes"
}

fn tell(tenant: &Arc<str>, before: Option<&Exceeded>, now: Option<&Exceeded>, waits: &QuotaWaits) {
    match (before, now) {
        (before, Some(Exceeded { quota, text })) if before.is_none_or(|before| before.quota != *quota) => {
            waits.add(tenant, quota);
            let tenant = &**tenant;
            tracing::warn!(alarm = "quota_exceeded", tenant, quota, "the tenant waits: {text}");
        }
        (Some(_), None) => tracing::info!(tenant = &**tenant, "the tenant is within its quotas again"),
        _ => {}
    }
}
