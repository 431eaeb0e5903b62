//! Histogram for hot paths: fixed buckets, two to each doubling, so that a percentile read from it
//! is at most a third off.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::sharded::Sharded;

/// Number of doublings that the buckets span.
const DOUBLINGS: u32 = 20;

/// Number of bounds of buckets; one more bucket holds the values above the last.
const BOUND_COUNT: usize = 2 * DOUBLINGS as usize + 1;

/// Histogram of values.
///
/// It takes about 6 KiB, so it is for metrics of a node, not for those of each bucket.
#[derive(Debug)]
pub struct Histogram {
    shards: Sharded<HistogramShard>,
    /// Exponent of two of the first bound.
    first_exponent: u32,
    /// Recorded units in one exported unit.
    unit: f64,
}

#[derive(Debug)]
struct HistogramShard {
    buckets: [AtomicU64; BOUND_COUNT + 1],
    sum: AtomicU64,
}

impl Default for HistogramShard {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Creates a histogram of durations, exported in seconds, with buckets from 16 µs to 17 s.
    pub fn for_durations() -> Self {
        Self {
            shards: Sharded::default(),
            first_exponent: 14,
            unit: 1e9,
        }
    }

    /// Creates a histogram of sizes or numbers, with buckets from 2 to 2 million.
    pub fn for_sizes() -> Self {
        Self {
            shards: Sharded::default(),
            first_exponent: 1,
            unit: 1.0,
        }
    }

    /// Records a duration.
    pub fn record_duration(&self, time: Duration) {
        self.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Records a value: a size, or a duration in nanoseconds.
    pub fn record(&self, value: u64) {
        let shard = self.shards.local();
        shard.buckets[bucket_index(value, self.first_exponent)].fetch_add(1, Ordering::Relaxed);
        shard.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Returns the values recorded until now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut counts = [0_u64; BOUND_COUNT + 1];
        let mut sum = 0_u64;
        for shard in self.shards.iter() {
            for (count, bucket) in counts.iter_mut().zip(&shard.buckets) {
                *count += bucket.load(Ordering::Relaxed);
            }
            sum = sum.wrapping_add(shard.sum.load(Ordering::Relaxed));
        }
        let mut cumulative = 0;
        let buckets = (0..BOUND_COUNT)
            .map(|index| {
                cumulative += counts[index];
                (
                    bucket_bound(index, self.first_exponent) as f64 / self.unit,
                    cumulative,
                )
            })
            .collect();
        HistogramSnapshot {
            buckets,
            count: cumulative + counts[BOUND_COUNT],
            sum: sum as f64 / self.unit,
        }
    }
}

/// Values of a histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bounds, ascending, each with the number of values up to it.
    pub buckets: Vec<(f64, u64)>,
    /// Number of values.
    pub count: u64,
    /// Sum of the values.
    pub sum: f64,
}

impl HistogramSnapshot {
    /// Returns the number of values in each bucket, with its upper bound; the last bound, of the
    /// values above all others, is `f64::MAX`.
    pub(super) fn counts_by_bound(&self) -> Vec<(f64, u64)> {
        let mut below = 0;
        let all = self.buckets.iter().copied();
        all.chain([(f64::MAX, self.count)])
            .map(|(bound, up_to)| (bound, up_to - std::mem::replace(&mut below, up_to)))
            .collect()
    }
}

/// Returns the largest value of a bucket: `2^n` and `1.5 * 2^n` in turn.
fn bucket_bound(index: usize, first: u32) -> u64 {
    let doubling = 1_u64 << (first as usize + index / 2);
    if index.is_multiple_of(2) {
        doubling
    } else {
        doubling + doubling / 2
    }
}

/// Returns the bucket of a value: the first whose bound is not below it.
fn bucket_index(value: u64, first: u32) -> usize {
    // Bounds are inclusive.
    let below = value.saturating_sub(1);
    let Some(power) = below.checked_ilog2().filter(|power| *power >= first) else {
        return 0;
    };
    let upper_half = (below >> (power - 1)) & 1;
    let index = 2 * (power - first) as usize + upper_half as usize + 1;
    index.min(BOUND_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        for first in [1, 14] {
            for index in 0..BOUND_COUNT {
                let bound = bucket_bound(index, first);
                assert_eq!(bucket_index(bound, first), index, "{bound}");
                assert_eq!(bucket_index(bound + 1, first), index + 1, "{bound} + 1");
            }
            assert_eq!(bucket_index(0, first), 0);
            assert_eq!(bucket_index(u64::MAX, first), BOUND_COUNT);
        }
    }

    #[test]
    fn a_snapshot_adds_up() {
        let histogram = Histogram::for_durations();
        histogram.record_duration(Duration::from_millis(1));
        histogram.record_duration(Duration::from_millis(2));
        histogram.record_duration(Duration::from_secs(60));
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count, 3);
        assert!((snapshot.sum - 60.003).abs() < 1e-9);
        let up_to = |seconds: f64| {
            snapshot
                .buckets
                .iter()
                .rfind(|(bound, _)| *bound <= seconds)
                .map(|(_, count)| *count)
        };
        assert_eq!(up_to(0.000_9), Some(0));
        assert_eq!(up_to(0.001_1), Some(1));
        assert_eq!(up_to(20.0), Some(2));
    }
}
