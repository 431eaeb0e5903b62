//! Periodic maintenance of the groups' logs: flushes the state, purges what no restart and no
//! member needs, and frees its space.
//!
//! The steps are taken in that order, since each makes room for the next: a log may be purged only
//! up to what the state has flushed, and a segment is freed only once most of it is purged.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{LocalGroup, LogBudget};
use crate::store::{DiskSpace, Engine, StateFlusher, clean_log_segments};

/// Interval of maintenance.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Maintenance of the logs of all groups of a node.
pub(crate) struct LogMaintenance {
    /// Storage with the logs and the state.
    pub engine: Arc<Engine>,
    /// All groups of the node.
    pub groups: Vec<Arc<dyn LocalGroup>>,
    /// Budget of the log that is retained for members that lag.
    pub budget: Arc<LogBudget>,
    /// Free space of the disk.
    pub disk_space: Arc<DiskSpace>,
    /// Size at which the state flushes itself, in bytes.
    pub write_buffer_bytes: usize,
}

impl LogMaintenance {
    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut flusher = StateFlusher::new(self.engine.clone(), self.write_buffer_bytes);
        let mut tick = tokio::time::interval(MAINTENANCE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            flusher.flush_if_due().await;
            if let Err(error) = self.purge().await {
                // A failed group stops the node by itself.
                tracing::warn!(%error, "log purge failed, retrying");
            }
            clean_log_segments(self.engine.clone()).await;
        }
    }

    /// Purges all logs up to the flushed state, except for entries that members that lag still
    /// need; those, too, if they take too much of the disk.
    async fn purge(&self) -> io::Result<()> {
        for group in &self.groups {
            group.purge().await?;
        }
        let log = &self.engine.log;
        self.budget.enforce(&self.groups, log, &self.disk_space);
        Ok(())
    }
}
