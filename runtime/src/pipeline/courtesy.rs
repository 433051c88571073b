//! When tenants go on that had to wait for CPU time: they wait anyway, and others are not to feel when they do.
//!
//! The broker and the threads share processors, and the kernel may let whoever it wakes wait behind a guest that runs
//! already, though another processor is idle: measured, the server stood there for up to 1.2 ms.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest that somebody waits for a good moment: a busy worker may have none.
pub(super) const MAX_COURTESY: Duration = Duration::from_millis(20);
/// Who has begun is done after this time, whatever the kernel does with its thread.
const MAX_TURN: Duration = Duration::from_millis(10);

/// The turn of these tenants, one for all threads of a worker: one of them goes on at a time, for a stretch, and then none for
/// as long as that took. Whoever has more time left than that stretch used needs no turn for it.
#[derive(Debug)]
pub(super) struct Courtesy {
    started: Instant,
    /// When the turn is free, in nanoseconds since it started.
    free: AtomicU64,
}

impl Courtesy {
    /// A free turn.
    pub(super) fn new(now: Instant) -> Courtesy {
        Courtesy { started: now, free: AtomicU64::new(0) }
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether the turn is free.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.free.load(Ordering::Relaxed) <= self.nanos(now)
    }

    /// Somebody has the turn. Two threads that look at the same moment may both have it: that is only a pity.
    pub(super) fn begin(&self, now: Instant) {
        self.free.store(self.nanos(now + MAX_TURN), Ordering::Relaxed);
    }

    /// Who had it has used the thread from then until now.
    pub(super) fn end(&self, since: Instant, now: Instant) {
        self.free.store(self.nanos(now + (now - since).min(MAX_TURN)), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_is_free_again_after_as_long_as_it_took() {
        let start = Instant::now();
        let (courtesy, at) = (Courtesy::new(start), |ms| start + Duration::from_millis(ms));
        assert!(courtesy.is_free(start));
        courtesy.begin(at(1));
        assert!(!courtesy.is_free(at(1)) && !courtesy.is_free(at(10)));
        courtesy.end(at(1), at(3));
        assert!(!courtesy.is_free(at(4)) && courtesy.is_free(at(5)));
        // One that the kernel has put aside for long is not waited for, neither then nor afterwards.
        courtesy.begin(at(10));
        assert!(courtesy.is_free(at(20)));
        courtesy.end(at(10), at(100));
        assert!(!courtesy.is_free(at(109)) && courtesy.is_free(at(110)));
    }
}
