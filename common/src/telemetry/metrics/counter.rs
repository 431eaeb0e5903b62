//! Counter for hot paths.

use std::sync::atomic::{AtomicU64, Ordering};

use super::sharded::Sharded;

/// Counter. An increment costs one uncontended addition; a counter takes 2 KiB, so it is for
/// metrics of a node, not for those of each bucket.
#[derive(Debug, Default)]
pub struct Counter(Sharded<AtomicU64>);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `number`.
    pub fn add(&self, number: u64) {
        self.0.local().fetch_add(number, Ordering::Relaxed);
    }

    /// Returns the sum. Concurrent additions may be missed, but the sum never falls.
    pub fn value(&self) -> u64 {
        self.0
            .iter()
            .map(|shard| shard.load(Ordering::Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_of_many_threads_add_up() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..1000).for_each(|_| counter.increment()));
            }
        });
        counter.add(2);
        assert_eq!(counter.value(), 40_002);
    }
}
