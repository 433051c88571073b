//! What happened, counted per handler. Written by the pipeline, read by metrics, demo and tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::deploy::canary::Tally;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Versions of a handler whose deliveries are counted: those that were put to use last.
pub const MAX_VERSIONS: usize = 8;

/// What became of the deliveries that ran on one version of a handler on this worker.
#[derive(Debug, Default)]
pub struct VersionStats {
    /// Runs, as [`HandlerStats::record`] notes them.
    pub runs: Counter,
    /// Events acknowledged.
    pub acked: Counter,
    /// Attempts that failed and will be made again.
    pub retried: Counter,
    /// Events that went to the dead-letter stream.
    pub dead: Counter,
}

impl VersionStats {
    /// The outcomes by now.
    pub fn tally(&self) -> Tally {
        Tally { acked: self.acked.get(), failed: self.retried.get().saturating_add(self.dead.get()) }
    }
}

/// The counters of one handler on this worker. Outcomes are counted when they have been written, not before.
#[derive(Debug)]
pub struct HandlerStats {
    /// Events acknowledged after the handler returned `ok`.
    pub acked: Counter,
    /// Attempts that failed and will be made again.
    pub retried: Counter,
    /// Events that went to the dead-letter stream.
    pub dead: Counter,
    /// Follow-up events written.
    pub published: Counter,
    /// Events of a type that the handler does not want, acknowledged without running it.
    pub skipped: Counter,
    /// Events that the handler had handled before, acknowledged without effects.
    pub duplicate: Counter,
    /// Deliveries whose outcome somebody else had decided first; nothing was written. Those that had to be sent again,
    /// because the answer was lost, are not counted: the first may have been this worker.
    pub superseded: Counter,
    /// Pending entries whose payload had been trimmed away.
    pub trimmed: Counter,
    /// Bytes of guest logs that were over the limit.
    pub log_bytes_dropped: Counter,
    /// HTTP requests of the handler that were refused.
    pub http_denied: Counter,
    /// Nanoseconds that its deliveries have had a thread.
    pub cpu_nanos: Counter,
    /// The threads on which the handler stands still because the broker refuses its writes.
    pub blocked: AtomicU64,
    durations: Mutex<Histogram<u64>>,
    /// By digest, the one that was put to use last at the end. At most [`MAX_VERSIONS`].
    versions: Mutex<Vec<(String, Arc<VersionStats>)>>,
}

impl Default for HandlerStats {
    fn default() -> HandlerStats {
        HandlerStats {
            acked: Counter::default(),
            retried: Counter::default(),
            dead: Counter::default(),
            published: Counter::default(),
            skipped: Counter::default(),
            duplicate: Counter::default(),
            superseded: Counter::default(),
            trimmed: Counter::default(),
            log_bytes_dropped: Counter::default(),
            http_denied: Counter::default(),
            cpu_nanos: Counter::default(),
            blocked: AtomicU64::new(0),
            // Two digits are exact to 1 %, and take some kilobytes.
            durations: Mutex::new(Histogram::new(2).expect("two significant digits are allowed")),
            versions: Mutex::default(),
        }
    }
}

impl HandlerStats {
    /// Notes how long one run of the handler took: instance, call and clean-up.
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // An auto-resizing histogram takes every value.
        let _ = self.durations().record(nanos);
    }

    /// Whether the handler is stopped because the broker refuses its writes.
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) > 0
    }

    /// The durations in nanoseconds.
    pub fn durations(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.durations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of a version that is put to use. The one that was put to use longest ago goes if there are too many.
    pub fn version(&self, digest: &str) -> Arc<VersionStats> {
        let mut versions = self.lock_versions();
        let known = versions.iter().position(|(known, _)| known == digest);
        let entry = known.map_or_else(|| (digest.to_owned(), Arc::default()), |at| versions.remove(at));
        let counts = entry.1.clone();
        versions.push(entry);
        if versions.len() > MAX_VERSIONS {
            versions.remove(0);
        }
        counts
    }

    /// The counters of the versions that were put to use last, by digest, the last one at the end.
    pub fn versions(&self) -> Vec<(String, Arc<VersionStats>)> {
        self.lock_versions().clone()
    }

    fn lock_versions(&self) -> MutexGuard<'_, Vec<(String, Arc<VersionStats>)>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_apart_and_the_longest_unused_is_forgotten() {
        let stats = HandlerStats::default();
        stats.version("first").acked.add(3);
        stats.version("second").dead.add(1);
        for number in 2..MAX_VERSIONS {
            stats.version(&number.to_string());
        }
        // Put to use again, it keeps what was counted.
        assert_eq!(stats.version("first").tally(), Tally { acked: 3, failed: 0 });
        assert_eq!(stats.versions().len(), MAX_VERSIONS);
        stats.version("one more");
        let digests: Vec<String> = stats.versions().into_iter().map(|(digest, _)| digest).collect();
        assert_eq!(digests.len(), MAX_VERSIONS);
        assert!(digests.contains(&"first".to_owned()) && !digests.contains(&"second".to_owned()), "{digests:?}");
    }
}
