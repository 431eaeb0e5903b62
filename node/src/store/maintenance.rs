//! Maintenance of the storage while the node runs: flushes the state, frees segments of the log,
//! measures the disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{DiskSpace, Engine};

/// Interval at which free disk space is measured.
const DISK_MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which anything appended to the logs is flushed, however little.
const MAX_FLUSH_INTERVAL: Duration = Duration::from_secs(600);

/// Schedule of flushes, which bounds the log that a restart replays.
///
/// The state flushes itself when its write buffer is full. But entries can be many and change
/// little: writes whose conditions fail, say. So it is also flushed when the logs have grown, and
/// after some time.
struct FlushSchedule {
    flushed_bytes: u64,
    last_flush: Instant,
    max_log_growth: u64,
}

impl FlushSchedule {
    fn is_due(&self, appended: u64, now: Instant) -> bool {
        let growth = appended.saturating_sub(self.flushed_bytes);
        growth > self.max_log_growth
            || (growth > 0 && now.duration_since(self.last_flush) > MAX_FLUSH_INTERVAL)
    }
}

/// Flushes the state as the logs grow.
pub(crate) struct StateFlusher {
    engine: Arc<Engine>,
    schedule: FlushSchedule,
}

impl StateFlusher {
    /// Creates a flusher; `write_buffer` is the size at which the state flushes itself, in bytes.
    pub(crate) fn new(engine: Arc<Engine>, write_buffer: usize) -> Self {
        let schedule = FlushSchedule {
            flushed_bytes: 0,
            last_flush: Instant::now(),
            max_log_growth: 2 * write_buffer as u64,
        };
        Self { engine, schedule }
    }

    /// Flushes the state if the logs have grown enough since the last flush, or if it is long ago.
    /// A failure is logged.
    pub(crate) async fn flush_if_due(&mut self) {
        let appended = self.engine.log.appended_bytes();
        if !self.schedule.is_due(appended, Instant::now()) {
            return;
        }
        flush(&self.engine).await;
        self.schedule.flushed_bytes = appended;
        self.schedule.last_flush = Instant::now();
    }
}

async fn flush(engine: &Engine) {
    let state = engine.state.clone();
    match tokio::task::spawn_blocking(move || state.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let cause = &error.source;
            tracing::error!(%error, %cause, "state flush failed");
        }
        Err(error) => tracing::error!(%error, "state flush failed"),
    }
}

/// Moves entries out of old, mostly unused segments of the log, which frees those. A failure is
/// logged.
pub(crate) async fn clean_log_segments(engine: Arc<Engine>) {
    match tokio::task::spawn_blocking(move || engine.log.clean()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let cause = &error.source;
            tracing::warn!(%error, %cause, "log segment cleanup failed, retrying");
        }
        Err(error) => tracing::warn!(%error, "log segment cleanup failed"),
    }
}

/// Measures free disk space until `stop`.
pub(crate) async fn measure_disk_space(space: Arc<DiskSpace>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(DISK_MEASURE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        space.measure();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_due_after_log_growth_or_time() {
        let now = Instant::now();
        let schedule = FlushSchedule {
            flushed_bytes: 100,
            last_flush: now,
            max_log_growth: 50,
        };
        assert!(!schedule.is_due(150, now));
        assert!(schedule.is_due(151, now));
        assert!(!schedule.is_due(100, now + 2 * MAX_FLUSH_INTERVAL));
        assert!(schedule.is_due(101, now + 2 * MAX_FLUSH_INTERVAL));
    }
}
