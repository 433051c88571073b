//! What a tenant has in Redis, measured, and whether that is more than it may have.
//!
//! Measuring costs a command or two for each stream of the tenant, and only tenants pay that have such a quota. So it is
//! done every few seconds: a tenant may be over its quota by what comes within that time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;

use crate::broker::{BrokerError, Inspect, Refusal};
use crate::config::TenantQuotas;

/// How long what was measured is taken to be so.
const FRESH: Duration = Duration::from_secs(1);

/// What a tenant has; `None` for what was not asked for or cannot be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of its streams, inboxes and delayed events.
    pub stream_bytes: Option<u64>,
    /// Entries of its dead-letter streams.
    pub dead_letters: Option<u64>,
}

/// A quota that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The name of the quota, as the configuration has it.
    pub quota: &'static str,
    /// How much there is, how much is allowed, and what to do about it.
    pub text: String,
}

impl Usage {
    /// The first quota that is used up. Exactly as much as is allowed is not too much, but nothing more is let in.
    pub fn exceeded(&self, quotas: &TenantQuotas) -> Option<Exceeded> {
        if let (Some(used), Some(allowed)) = (self.stream_bytes, quotas.stream_bytes)
            && used >= allowed.as_u64()
        {
            let text = format!(
                "its streams have {}; {} are allowed. Set max_length or max_age for them, or drop dead letters",
                ByteSize(used).display().iec(),
                allowed.display().iec()
            );
            return Some(Exceeded { quota: "stream_bytes", text });
        }
        if let (Some(used), Some(allowed)) = (self.dead_letters, quotas.dead_letters)
            && used >= allowed
        {
            let text =
                format!("it has {used} dead letters; {allowed} are allowed. `wasmill dlq` redrives or drops them");
            return Some(Exceeded { quota: "dead_letters", text });
        }
        None
    }
}

/// The keys of a tenant whose contents count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Of its streams, dead-letter streams and inboxes, and of its delayed events.
    pub keys: Vec<Arc<str>>,
    /// Of its dead-letter streams.
    pub dead: Vec<Arc<str>>,
}

impl Counted {
    /// Measures what the quotas bound.
    pub async fn measure(&self, broker: &(impl Inspect + ?Sized), quotas: &TenantQuotas) -> Result<Usage, BrokerError> {
        let mut usage = Usage::default();
        if quotas.stream_bytes.is_some() {
            usage.stream_bytes = self.stream_bytes(broker).await?;
        }
        if quotas.dead_letters.is_some() {
            usage.dead_letters = Some(self.dead_letters(broker).await?);
        }
        Ok(usage)
    }

    /// Bytes of all of them; `None` if the broker cannot tell.
    pub async fn stream_bytes(&self, broker: &(impl Inspect + ?Sized)) -> Result<Option<u64>, BrokerError> {
        let mut sum = 0;
        for key in &self.keys {
            match broker.memory(key).await? {
                Some(bytes) => sum += bytes,
                // What is not there takes nothing.
                None if broker.stream(key).await?.is_none() => {}
                None => return Ok(None),
            }
        }
        Ok(Some(sum))
    }

    /// Dead letters in all of them. A key of another type has none.
    pub async fn dead_letters(&self, broker: &(impl Inspect + ?Sized)) -> Result<u64, BrokerError> {
        let mut sum = 0;
        for (key, length) in self.dead.iter().zip(broker.lengths(&self.dead).await?) {
            sum += match length {
                Some(length) => length,
                // Why not? Asked of all, that would copy the first and the last dead letter of each, however large.
                None => match broker.stream(key).await {
                    Err(BrokerError::Refused { refusal: Refusal::WrongType, .. }) => 0,
                    info => info?.map_or(0, |info| info.length),
                },
            };
        }
        Ok(sum as u64)
    }
}

/// Measures at most once in a second, however many ask. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    counted: Arc<Counted>,
    last: Arc<Mutex<Option<(Instant, Usage)>>>,
}

impl Sampler {
    /// Measures these.
    pub fn new(counted: Counted) -> Sampler {
        Sampler { counted: Arc::new(counted), last: Arc::default() }
    }

    /// What is measured.
    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    fn last(&self) -> MutexGuard<'_, Option<(Instant, Usage)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is now, or was a moment ago.
    pub async fn usage(&self, broker: &(impl Inspect + ?Sized), quotas: &TenantQuotas) -> Result<Usage, BrokerError> {
        if quotas.stream_bytes.is_none() && quotas.dead_letters.is_none() {
            return Ok(Usage::default());
        }
        if let Some((when, usage)) = *self.last()
            && when.elapsed() < FRESH
        {
            return Ok(usage);
        }
        let usage = self.counted.measure(broker, quotas).await?;
        *self.last() = Some((Instant::now(), usage));
        Ok(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_can_be_had_and_no_more() {
        let quotas =
            TenantQuotas { stream_bytes: Some(ByteSize(100)), dead_letters: Some(2), ..TenantQuotas::default() };
        let over = |stream_bytes, dead_letters| {
            let usage = Usage { stream_bytes: Some(stream_bytes), dead_letters: Some(dead_letters) };
            usage.exceeded(&quotas).map(|exceeded| exceeded.quota)
        };
        assert_eq!(over(99, 1), None);
        assert_eq!(over(100, 1), Some("stream_bytes"));
        assert_eq!(over(99, 2), Some("dead_letters"));
        assert_eq!(Usage::default().exceeded(&quotas), None);
        let unbounded = Usage { stream_bytes: Some(u64::MAX), dead_letters: Some(u64::MAX) };
        assert_eq!(unbounded.exceeded(&TenantQuotas::default()), None);
    }
}
