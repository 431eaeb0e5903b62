//! Counters of this node for a bucket: reads since the last report, and the published number of
//! keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::quota::{ByteQuota, KeyQuota};
use crate::types::Nanos;

/// Counters of one bucket on this node.
#[derive(Debug, Default)]
pub struct BucketUsage {
    hits: AtomicU64,
    misses: AtomicU64,
    /// Quota for new keys.
    pub key_quota: Arc<KeyQuota>,
    /// Bytes that may be added before the bucket is counted again, if its plan limits them.
    pub byte_quota: ByteQuota,
    published: Mutex<[Option<(u64, Nanos)>; 2]>,
}

impl BucketUsage {
    /// Counts a read.
    pub fn count_read(&self, is_hit: bool) {
        let counter = if is_hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts counts that were reported.
    pub fn subtract_reported(&self, (hits, misses): (u64, u64)) {
        self.hits.fetch_sub(hits, Ordering::Relaxed);
        self.misses.fetch_sub(misses, Ordering::Relaxed);
    }

    /// Hits and misses that are not reported yet.
    pub fn reads(&self) -> (u64, u64) {
        (
            self.hits.load(Ordering::Relaxed),
            self.misses.load(Ordering::Relaxed),
        )
    }

    /// Number of keys last published, if that was after `since`.
    pub fn published_since(&self, since: Nanos) -> Option<u64> {
        self.published.lock()[0]
            .filter(|(_, at)| *at > since)
            .map(|(keys, _)| keys)
    }

    /// Publishes a number of keys, unless one was published after `since`. Returns the valid
    /// number.
    pub fn publish(&self, keys: u64, now: Nanos, since: Nanos) -> u64 {
        let mut published = self.published.lock();
        match published[0] {
            Some((current, at)) if at > since => current,
            last => {
                *published = [Some((keys, now)), last];
                keys
            }
        }
    }

    /// Last two published numbers, with their times.
    pub fn published(&self) -> Vec<(u64, Nanos)> {
        self.published.lock().iter().flatten().copied().collect()
    }

    /// Returns whether `keys` is one of the last two published numbers, and was published after
    /// `since`.
    pub fn was_published(&self, keys: u64, since: Nanos) -> bool {
        let published = self.published.lock();
        published
            .iter()
            .flatten()
            .any(|(number, at)| *number == keys && *at > since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_numbers_are_the_last_two_and_recent() {
        let usage = BucketUsage::default();
        usage.publish(1, 100, 0);
        usage.publish(2, 200, 100);
        assert!(usage.was_published(1, 50) && usage.was_published(2, 50));
        assert!(!usage.was_published(1, 150));
        assert_eq!(usage.publish(9, 210, 150), 2);
        usage.publish(3, 300, 200);
        assert!(!usage.was_published(1, 50));
        assert_eq!(usage.published_since(250), Some(3));
        assert_eq!(usage.published_since(300), None);
    }
}
