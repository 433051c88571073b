//! When a delivery ends that has not returned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For how long deliveries of a tenant have been kept from a thread by its quota, in all, whether or not they could have used
/// it. That time counts towards no deadline.
#[derive(Debug, Default)]
pub struct Throttled(AtomicU64);

impl Throttled {
    /// So much more.
    pub fn add(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// All of it.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The end of the time that a delivery may take.
#[derive(Clone, Debug)]
pub(super) struct Deadline {
    /// If it is never kept from running.
    earliest: Instant,
    throttled: Arc<Throttled>,
    /// What that was when the delivery began.
    before: Duration,
}

impl Deadline {
    /// That of a delivery which begins at `start` and may take so long.
    pub(super) fn new(start: Instant, limit: Duration, throttled: Arc<Throttled>) -> Deadline {
        Deadline { earliest: start + limit, before: throttled.total(), throttled }
    }

    /// When it is, as far as is known now: it only moves away.
    pub(super) fn at(&self) -> Instant {
        self.earliest + self.throttled.total().saturating_sub(self.before)
    }

    /// Whether it is over.
    pub(super) fn has_passed(&self) -> bool {
        Instant::now() >= self.at()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_taken_from_a_delivery_is_added() {
        let (throttled, start) = (Arc::new(Throttled::default()), Instant::now());
        throttled.add(Duration::from_secs(7));
        let deadline = Deadline::new(start, Duration::from_secs(1), throttled.clone());
        assert_eq!(deadline.at(), start + Duration::from_secs(1));
        throttled.add(Duration::from_secs(2));
        assert_eq!(deadline.at(), start + Duration::from_secs(3));
        assert!(!deadline.has_passed());
        assert!(Deadline::new(start, Duration::ZERO, throttled).has_passed());
    }
}
