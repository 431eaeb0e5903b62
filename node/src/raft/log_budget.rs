//! Bounds the log that is retained for members that lag.
//!
//! Leaders retain the entries that a member lacks, so that it needs no snapshot, or none after the
//! one that it receives (`log_retention`). A node has one log, so the bound is the node's. When it
//! is exceeded, or the disk is nearly full, the group that retains most releases its entries, and
//! its members that lag need a snapshot from the beginning. That is logged, since it may repeat for
//! ever.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::metrics::Exposition;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::LocalGroup;
use crate::store::{DiskSpace, DiskState, SegmentLog};

/// Minimum bytes that an entry counts for, since memory holds the position of each.
const MIN_ENTRY_BYTES: u64 = 1 << 10;
/// Divisor of the disk's size that gives the maximum of the budget.
const DISK_SHARE_DIVISOR: u64 = 5;
/// Time for the space of one group to be freed before another group releases its entries.
const RELEASE_INTERVAL: Duration = Duration::from_secs(5);

/// Budget of the log that is retained for members that lag.
pub struct LogBudget {
    max_bytes: u64,
    data_dir: PathBuf,
    used_bytes: AtomicU64,
    release_count: AtomicU64,
    last_release: Mutex<Option<Instant>>,
}

impl LogBudget {
    /// Creates a budget of `max_bytes`, and at most a fifth of the disk with the data directory.
    pub fn new(max_bytes: u64, data_dir: PathBuf) -> Self {
        Self {
            max_bytes,
            data_dir,
            used_bytes: AtomicU64::new(0),
            release_count: AtomicU64::new(0),
            last_release: Mutex::default(),
        }
    }

    /// Maximum size of the log, in bytes.
    fn limit_bytes(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.data_dir);
        let share = disk.map_or(u64::MAX, |disk| {
            disk.f_blocks.saturating_mul(disk.f_frsize) / DISK_SHARE_DIVISOR
        });
        self.max_bytes.min(share)
    }

    /// Size of the log at the last check, in bytes.
    fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Number of times that a group released the entries that it retained for members that lag.
    fn release_count(&self) -> u64 {
        self.release_count.load(Ordering::Relaxed)
    }

    /// Makes the group that retains most entries release them if the budget is exceeded, or if the
    /// disk is below its low-water mark. Of groups that retain as much, the last one does.
    pub(super) fn enforce(
        &self,
        groups: &[Arc<dyn LocalGroup>],
        log: &SegmentLog,
        disk_space: &DiskSpace,
    ) {
        let used = effective_bytes(log.used_bytes(), log.entry_count());
        self.used_bytes.store(used, Ordering::Relaxed);
        let is_disk_low = disk_space.state() != DiskState::Ample;
        if (used <= self.limit_bytes() && !is_disk_low) || !self.is_release_due() {
            return;
        }
        let retained = groups.iter().map(|group| (group.retained_entries(), group));
        let Some((entries, group)) = retained.max_by_key(|(entries, _)| *entries) else {
            return;
        };
        if entries == 0 {
            // The log's size is not due to members that lag.
            return;
        }
        group.release_retained_log();
        *self.last_release.lock() = Some(Instant::now());
        self.release_count.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            group = %group.id(), entries, used, limit = self.limit_bytes(), is_disk_low,
            "released the log retained for members that lag, which need a snapshot; raise \
             log_retention_mib if they do not catch up"
        );
    }

    fn is_release_due(&self) -> bool {
        let last = *self.last_release.lock();
        last.is_none_or(|last| last.elapsed() > RELEASE_INTERVAL)
    }

    /// Describes what `groups`, all of the node, retain for members that lag.
    pub(crate) fn status(&self, groups: &[Arc<dyn LocalGroup>]) -> Value {
        let retained = groups.iter().map(|group| group.retained_entries());
        json!({
            "kept_entries": retained.sum::<u64>(),
            "used_bytes": self.used_bytes(),
            "limit_bytes": self.limit_bytes(),
            "released": self.release_count(),
        })
    }

    /// Writes the budget's metrics.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let gauges = [
            (
                "cloudkv_log_retention_used_bytes",
                "Bytes of the log, out of the budget for members that lag.",
                self.used_bytes(),
            ),
            (
                "cloudkv_log_retention_limit_bytes",
                "Budget of the log: beyond it members that lag need a snapshot.",
                self.limit_bytes(),
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &[], value as f64);
        }
        let help = "Times that a group released the log that it retained for members that lag.";
        let released = self.release_count();
        text.counter("cloudkv_log_retention_released_total", help, &[], released);
    }
}

fn effective_bytes(bytes: u64, entries: u64) -> u64 {
    bytes.max(entries.saturating_mul(MIN_ENTRY_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_entries_count_with_the_minimum_entry_size() {
        assert_eq!(effective_bytes(5000, 2), 5000);
        assert_eq!(effective_bytes(5000, 10), 10 << 10);
    }
}
