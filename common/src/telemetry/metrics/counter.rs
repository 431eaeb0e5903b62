//! A counter for hot paths.

use std::sync::atomic::{AtomicU64, Ordering};

use super::sharded::Sharded;

/// A number that only rises. Counting costs one uncontended addition; it takes 2 KiB, so it is for
/// what a node has few of, not for what each bucket has.
#[derive(Debug, Default)]
pub struct Counter(Sharded<AtomicU64>);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `number`.
    pub fn add(&self, number: u64) {
        self.0.own().fetch_add(number, Ordering::Relaxed);
    }

    /// The sum. While others count it may miss what they are just adding, but never falls.
    pub fn value(&self) -> u64 {
        self.0
            .all()
            .map(|shard| shard.load(Ordering::Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_many_threads_add_up() {
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
