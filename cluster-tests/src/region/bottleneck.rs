//! The connection of a node to all others, with a rate and a queue as those of a real one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// What the queue holds, as time at its rate: all connections wait that long behind one that takes
/// all it can.
const MAX_QUEUED: Duration = Duration::from_millis(100);

/// One direction of it. What doesn't fit into the queue waits at its sender, in the order in which
/// it came, as TCP has a sender wait.
#[derive(Debug, Default)]
pub(super) struct Bottleneck {
    /// Bytes a second; 0: as many as come.
    rate: AtomicU64,
    /// When the last byte of the queue has passed.
    empty_at: Mutex<Option<Instant>>,
    passed: AtomicU64,
}

impl Bottleneck {
    /// Lets so many bytes a second pass from now on; 0: as many as come.
    pub(super) fn limit(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Bytes that were let into the queue since the rate was limited first.
    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Waits for room in the queue, and tells when so many bytes have passed.
    pub(super) async fn enter(&self, bytes: usize) -> Instant {
        let mut empty_at = match self.rate.load(Ordering::Relaxed) {
            0 => return Instant::now(),
            _ => self.empty_at.lock().await,
        };
        if let Some(has_room) = empty_at.and_then(|at| at.checked_sub(MAX_QUEUED)) {
            sleep_until(has_room).await;
        }
        let now = Instant::now();
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return now;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let passed = empty_at.map_or(now, |at| at.max(now)) + takes;
        *empty_at = Some(passed);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.passed.fetch_add(bytes, Ordering::Relaxed);
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1 << 20;
    const PIECE: usize = 64 << 10;

    #[tokio::test]
    async fn the_queue_is_bounded_and_what_waits_passes_at_the_rate() {
        let bottleneck = Bottleneck::default();
        assert!(bottleneck.enter(1 << 30).await <= Instant::now());
        bottleneck.limit(RATE);
        let began = Instant::now();
        let mut passed = began;
        for _ in 0..5 {
            passed = bottleneck.enter(PIECE).await;
        }
        let takes = Duration::from_secs_f64((5 * PIECE) as f64 / RATE as f64);
        assert!(passed >= began + takes);
        // The last one was let in only when what was before it took no longer than the queue holds.
        let alone = Duration::from_secs_f64(PIECE as f64 / RATE as f64);
        assert!(Instant::now() >= passed - MAX_QUEUED - alone);
        assert_eq!(bottleneck.passed(), 5 * PIECE as u64);
    }
}
