//! What a node does by itself all the time: discipline its clock, flush its state, purge its logs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::groups::Groups;
use crate::store::DiskSpace;

/// How often it is looked after.
const UPKEEP: Duration = Duration::from_secs(1);
/// How often the room on the disk is measured.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// What was appended to the logs is flushed after this time, however little it is.
const FLUSH_AFTER: Duration = Duration::from_secs(600);

/// Bounds the log that a restart replays.
///
/// The state flushes itself when its write buffer is full. But entries can be many and change
/// little: writes whose conditions fail, say. So it is also flushed when the logs have grown, and
/// after some time.
struct Flusher {
    appended: u64,
    at: Instant,
    limit: u64,
}

impl Flusher {
    fn is_due(&self, appended: u64, now: Instant) -> bool {
        let grown = appended.saturating_sub(self.appended);
        grown > self.limit || (grown > 0 && now.duration_since(self.at) > FLUSH_AFTER)
    }
}

/// Looks after a node until `stop`. `write_buffer` is the size at which the state flushes itself.
pub async fn upkeep(groups: Arc<Groups>, write_buffer: usize, stop: CancellationToken) {
    let mut flusher = Flusher {
        appended: 0,
        at: Instant::now(),
        limit: 2 * write_buffer as u64,
    };
    let mut tick = tokio::time::interval(UPKEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        groups.clock.discipline();
        let appended = groups.engine.log.appended_bytes();
        if flusher.is_due(appended, Instant::now()) {
            flush(&groups).await;
            flusher = Flusher {
                appended,
                at: Instant::now(),
                ..flusher
            };
        }
        if let Err(error) = groups.purge().await {
            // A group that has failed ends the node by itself.
            tracing::warn!(%error, "purge logs");
        }
        tidy(&groups).await;
    }
}

/// Measures the room on the disk until `stop`.
pub async fn watch_disk(space: Arc<DiskSpace>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(DISK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        space.measure();
    }
}

/// Frees old segments of the log that hold little.
async fn tidy(groups: &Groups) {
    let engine = groups.engine.clone();
    match tokio::task::spawn_blocking(move || engine.log.tidy()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let cause = &error.source;
            tracing::warn!(%error, %cause, "moving entries out of old log segments failed, retrying");
        }
        Err(error) => tracing::warn!(%error, "moving entries out of old log segments failed"),
    }
}

async fn flush(groups: &Groups) {
    let state = groups.engine.state.clone();
    match tokio::task::spawn_blocking(move || state.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let cause = &error.source;
            tracing::error!(%error, %cause, "flushing the state failed");
        }
        Err(error) => tracing::error!(%error, "flush the state"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_flushed_when_the_log_has_grown_or_after_some_time() {
        let now = Instant::now();
        let flusher = Flusher {
            appended: 100,
            at: now,
            limit: 50,
        };
        assert!(!flusher.is_due(150, now));
        assert!(flusher.is_due(151, now));
        assert!(!flusher.is_due(100, now + 2 * FLUSH_AFTER));
        assert!(flusher.is_due(101, now + 2 * FLUSH_AFTER));
    }
}
