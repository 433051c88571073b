//! What happened, counted per handler. Written by the pipeline, read by metrics, demo and tests.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

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
    /// The threads on which the handler stands still because the broker refuses its writes.
    pub blocked: AtomicU64,
    durations: Mutex<Histogram<u64>>,
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
            blocked: AtomicU64::new(0),
            // Two digits are exact to 1 %, and take some kilobytes.
            durations: Mutex::new(Histogram::new(2).expect("two significant digits are allowed")),
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
    pub fn durations(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        self.durations.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
