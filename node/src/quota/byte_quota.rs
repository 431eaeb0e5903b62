//! Quota for the bytes of a bucket under its plan: no write is refused below the limit, which is
//! exceeded by little.
//!
//! Each node that leads shards may add an allowance of bytes between two counts of the whole
//! bucket. Invariant: an allowance is at most the share of the free bytes that each shard would get
//! if all of them asked at once, and never more than [`max_allowance`]; it ends after
//! [`ALLOWANCE_LIFETIME`]. So outdated counts exceed the limit by at most one allowance per shard,
//! plus the bytes written during a count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Divisor of the limit that gives the excess allowed to all shards together.
const EXCESS_DIVISOR: u64 = 64;
/// Minimum size of a full allowance, in bytes: below it, small limits would require a count for
/// nearly every write.
const MIN_ALLOWANCE_BYTES: u64 = 64 << 10;
/// Time for which an allowance is valid, from the start of the count from which it comes.
const ALLOWANCE_LIFETIME: Duration = Duration::from_secs(1);

/// Maximum allowance of one shard's leader in a bucket of at most `limit` bytes over `shards`
/// shards.
fn max_allowance(limit: u64, shards: u64) -> u64 {
    (limit / EXCESS_DIVISOR / shards.max(1)).max(MIN_ALLOWANCE_BYTES)
}

/// Quota of bytes that this node may still add to a bucket without a count.
#[derive(Debug)]
pub struct ByteQuota {
    allowance: AtomicU64,
    /// End of the allowance, in nanoseconds after `start`.
    valid_until: AtomicU64,
    start: Instant,
    /// Lock of the task that counts the bucket; others wait for it.
    pub count_lock: tokio::sync::Mutex<()>,
}

impl Default for ByteQuota {
    fn default() -> Self {
        Self {
            allowance: AtomicU64::new(0),
            valid_until: AtomicU64::new(0),
            start: Instant::now(),
            count_lock: tokio::sync::Mutex::default(),
        }
    }
}

impl ByteQuota {
    /// Takes bytes off the allowance. Returns `false` if it has less left, or has ended.
    pub fn consume(&self, bytes: u64, now: Instant) -> bool {
        if self.nanos_since_start(now) >= self.valid_until.load(Ordering::Acquire) {
            return false;
        }
        let subtract = |allowance: u64| allowance.checked_sub(bytes);
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        self.allowance
            .fetch_update(release, acquire, subtract)
            .is_ok()
    }

    /// Replaces the allowance with one from `free` bytes, which a count that began at `counted`
    /// found below `limit`. The caller must hold the counting lock.
    pub fn renew(&self, free: u64, limit: u64, shards: u64, counted: Instant) {
        let allowance = (free / shards.max(1)).min(max_allowance(limit, shards));
        self.allowance.store(allowance, Ordering::Release);
        let until = self.nanos_since_start(counted + ALLOWANCE_LIFETIME);
        self.valid_until.store(until, Ordering::Release);
    }

    /// Ends the allowance after a change of the limit.
    pub fn reset(&self) {
        self.valid_until.store(0, Ordering::Release);
    }

    fn nanos_since_start(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.start);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_allowance_is_used_up_and_ends_with_its_time() {
        let quota = ByteQuota::default();
        let now = Instant::now();
        assert!(!quota.consume(1, now));
        quota.renew(1000, 1 << 30, 2, now);
        assert!(quota.consume(300, now) && !quota.consume(201, now) && quota.consume(200, now));
        assert!(!quota.consume(1, now));
        quota.renew(1000, 1 << 30, 2, now);
        assert!(!quota.consume(1, now + ALLOWANCE_LIFETIME));
        quota.renew(1000, 1 << 30, 2, now);
        quota.reset();
        assert!(!quota.consume(1, now));
    }

    /// Step of the model: a shard's leader writes some bytes, or time passes.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Write { leader: usize, bytes: u64 },
        Wait,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let write = (0..4_usize, 1..200_000_u64);
        let write = write.prop_map(|(leader, bytes)| Step::Write { leader, bytes });
        prop::collection::vec(prop_oneof![20 => write, 1 => Just(Step::Wait)], 1..400)
    }

    proptest! {
        /// For any writes in any order, the bucket exceeds its limit by at most one allowance for
        /// each other leader, and no write that fits is refused.
        #[test]
        fn the_limit_is_exceeded_by_at_most_one_allowance_per_shard(
            limit in 1..20_000_000_u64,
            steps in steps(),
        ) {
            let leaders: Vec<ByteQuota> = (0..4).map(|_| ByteQuota::default()).collect();
            let mut now = Instant::now();
            let mut used = 0_u64;
            for step in steps {
                let Step::Write { leader, bytes } = step else {
                    now += ALLOWANCE_LIFETIME;
                    continue;
                };
                let quota = &leaders[leader];
                if quota.consume(bytes, now) {
                    used += bytes;
                } else if used + bytes <= limit {
                    quota.renew(limit - used - bytes, limit, 4, now);
                    used += bytes;
                }
                prop_assert!(used <= limit + 3 * max_allowance(limit, 4), "{used} of {limit}");
            }
        }
    }
}
