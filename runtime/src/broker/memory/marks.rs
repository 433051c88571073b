//! The marks of handled events of the broker in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The fewest marks at which those that are over are removed.
const MIN_PURGE: usize = 1024;

/// Marks, and how long each one stays.
#[derive(Default)]
pub(super) struct Marks {
    until: HashMap<Arc<str>, Instant>,
    /// The number of marks at which those that are over are removed.
    purge_at: usize,
}

impl Marks {
    pub(super) fn contains(&self, key: &str) -> bool {
        self.until.get(key).is_some_and(|until| *until > Instant::now())
    }

    pub(super) fn set(&mut self, key: &Arc<str>, ttl: Duration) {
        let now = Instant::now();
        if self.until.len() >= self.purge_at.max(MIN_PURGE) {
            self.until.retain(|_, until| *until > now);
            self.purge_at = self.until.len() * 2;
        }
        self.until.insert(key.clone(), now + ttl);
    }
}
