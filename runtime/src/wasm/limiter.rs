//! The bound on what one instance may allocate.

use wasmtime::ResourceLimiter;

/// Elements of all tables of an instance together.
const MAX_TABLE_ELEMENTS: usize = 200_000;

/// Counts an instance's linear memory and refuses growth over the limit.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: usize,
    used: usize,
    peak: usize,
    refused: bool,
    table_elements: usize,
}

impl Limiter {
    pub(super) fn new(limit: usize) -> Limiter {
        Limiter { limit, used: 0, peak: 0, refused: false, table_elements: 0 }
    }

    /// Bytes of linear memory now.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// The most bytes there ever were.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    /// Whether growth was refused since the last call: a guest that dies afterwards died of this.
    pub(super) fn take_refused(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_sub(current).saturating_add(desired);
        if used > self.limit || maximum.is_some_and(|maximum| desired > maximum) {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        self.peak = self.peak.max(used);
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let elements = self.table_elements.saturating_sub(current).saturating_add(desired);
        if elements > MAX_TABLE_ELEMENTS {
            self.refused = true;
            return Ok(false);
        }
        self.table_elements = elements;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories_and_refused_at_the_edge() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).expect("no error"));
        assert!(limiter.memory_growing(0, 40, None).expect("no error"));
        assert!(!limiter.take_refused());
        assert!(!limiter.memory_growing(40, 41, None).expect("no error"));
        assert!(limiter.take_refused() && !limiter.take_refused());
        assert_eq!((limiter.used(), limiter.peak()), (100, 100));
    }

    #[test]
    fn tables_are_bounded() {
        let mut limiter = Limiter::new(0);
        assert!(limiter.table_growing(0, MAX_TABLE_ELEMENTS, None).expect("no error"));
        assert!(!limiter.table_growing(0, 1, None).expect("no error"));
    }
}
