//! Bandwidth limit of a node's connection to all others, with a queue as a real one has.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Capacity of the queue, as time at its rate: all connections wait that long behind one that uses
/// the full rate.
const MAX_QUEUE_TIME: Duration = Duration::from_millis(100);

/// One direction of the connection. Bytes that don't fit into the queue wait at their sender, in
/// order, as TCP makes a sender wait.
#[derive(Debug, Default)]
pub(super) struct Bottleneck {
    /// Bytes per second; 0: unlimited.
    rate: AtomicU64,
    /// Time at which the last byte of the queue has passed.
    empty_at: Mutex<Option<Instant>>,
    passed_bytes: AtomicU64,
}

impl Bottleneck {
    /// Sets the rate in bytes per second; 0: unlimited.
    pub(super) fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Returns the number of bytes that have entered the queue since the rate was limited first.
    pub(super) fn passed_bytes(&self) -> u64 {
        self.passed_bytes.load(Ordering::Relaxed)
    }

    /// Waits until the queue has space, and returns the time at which the bytes will have passed.
    pub(super) async fn enqueue(&self, bytes: usize) -> Instant {
        let mut empty_at = match self.rate.load(Ordering::Relaxed) {
            0 => return Instant::now(),
            _ => self.empty_at.lock().await,
        };
        if let Some(has_space) = empty_at.and_then(|at| at.checked_sub(MAX_QUEUE_TIME)) {
            sleep_until(has_space).await;
        }
        let now = Instant::now();
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return now;
        }
        let duration = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let passed = empty_at.map_or(now, |at| at.max(now)) + duration;
        *empty_at = Some(passed);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.passed_bytes.fetch_add(bytes, Ordering::Relaxed);
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1 << 20;
    const CHUNK_BYTES: usize = 64 << 10;

    #[tokio::test]
    async fn the_queue_is_bounded_and_drains_at_the_rate() {
        let bottleneck = Bottleneck::default();
        assert!(bottleneck.enqueue(1 << 30).await <= Instant::now());
        bottleneck.set_rate(RATE);
        let began = Instant::now();
        let mut passed = began;
        for _ in 0..5 {
            passed = bottleneck.enqueue(CHUNK_BYTES).await;
        }
        let duration = Duration::from_secs_f64((5 * CHUNK_BYTES) as f64 / RATE as f64);
        assert!(passed >= began + duration);
        // The last chunk was admitted only when those before it took no longer than the queue
        // holds.
        let alone = Duration::from_secs_f64(CHUNK_BYTES as f64 / RATE as f64);
        assert!(Instant::now() >= passed - MAX_QUEUE_TIME - alone);
        assert_eq!(bottleneck.passed_bytes(), 5 * CHUNK_BYTES as u64);
    }
}
