//! Periodic maintenance: disciplines the clock, flushes the state, purges the logs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::groups::Groups;
use crate::store::DiskSpace;

/// Interval of maintenance.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);
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

/// Runs maintenance until `stop`. `write_buffer` is the size at which the state flushes itself, in
/// bytes.
pub(super) async fn run_maintenance(
    groups: Arc<Groups>,
    write_buffer: usize,
    stop: CancellationToken,
) {
    let mut flusher = FlushSchedule {
        flushed_bytes: 0,
        last_flush: Instant::now(),
        max_log_growth: 2 * write_buffer as u64,
    };
    let mut tick = tokio::time::interval(MAINTENANCE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        groups.clock.discipline();
        let appended = groups.engine.log.appended_bytes();
        if flusher.is_due(appended, Instant::now()) {
            flush(&groups).await;
            flusher = FlushSchedule {
                flushed_bytes: appended,
                last_flush: Instant::now(),
                ..flusher
            };
        }
        if let Err(error) = groups.purge_logs().await {
            // A failed group stops the node by itself.
            tracing::warn!(%error, "log purge failed, retrying");
        }
        clean_up_log_segments(&groups).await;
    }
}

/// Measures free disk space until `stop`.
pub(super) async fn measure_disk_space(space: Arc<DiskSpace>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(DISK_MEASURE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        space.measure();
    }
}

/// Moves entries out of old, mostly unused segments of the log, which frees those.
async fn clean_up_log_segments(groups: &Groups) {
    let engine = groups.engine.clone();
    match tokio::task::spawn_blocking(move || engine.log.clean()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let cause = &error.source;
            tracing::warn!(%error, %cause, "log segment cleanup failed, retrying");
        }
        Err(error) => tracing::warn!(%error, "log segment cleanup failed"),
    }
}

async fn flush(groups: &Groups) {
    let state = groups.engine.state.clone();
    match tokio::task::spawn_blocking(move || state.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let cause = &error.source;
            tracing::error!(%error, %cause, "state flush failed");
        }
        Err(error) => tracing::error!(%error, "state flush failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_due_after_log_growth_or_time() {
        let now = Instant::now();
        let flusher = FlushSchedule {
            flushed_bytes: 100,
            last_flush: now,
            max_log_growth: 50,
        };
        assert!(!flusher.is_due(150, now));
        assert!(flusher.is_due(151, now));
        assert!(!flusher.is_due(100, now + 2 * MAX_FLUSH_INTERVAL));
        assert!(flusher.is_due(101, now + 2 * MAX_FLUSH_INTERVAL));
    }
}
