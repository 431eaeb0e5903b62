//! Status and metrics of the backups that a node makes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloudkv_common::telemetry::metrics::Exposition;
use serde_json::{Value, json};

/// Counters of the backups that this node makes.
#[derive(Debug, Default)]
pub(crate) struct BackupStatus {
    is_running: AtomicBool,
    started: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    /// End of the last complete one, in seconds since 1970; 0: none since the start.
    last_completed: AtomicU64,
}

impl BackupStatus {
    /// Records that a backup has begun.
    pub(super) fn begin(&self) {
        self.is_running.store(true, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// Records the end of a backup, complete or not.
    pub(super) fn end(&self, is_complete: bool) {
        self.is_running.store(false, Ordering::Relaxed);
        if is_complete {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_secs());
            self.last_completed.store(now, Ordering::Relaxed);
            self.completed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts records that were read.
    pub(super) fn add_records(&self, count: u64) {
        self.records.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts compressed bytes that were written.
    pub(super) fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    fn last_completed(&self) -> u64 {
        self.last_completed.load(Ordering::Relaxed)
    }

    /// Describes the backups for the node's status.
    pub(crate) fn status(&self) -> Value {
        let last = self.last_completed();
        let last = (last != 0).then(|| {
            let time = UNIX_EPOCH + Duration::from_secs(last);
            humantime::format_rfc3339_seconds(time).to_string()
        });
        json!({
            "backups": {
                "running": self.is_running.load(Ordering::Relaxed),
                "last_completed_at": last,
            },
        })
    }

    /// Writes the metrics.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let started = self.started.load(Ordering::Relaxed);
        let help = "Backups that this node has begun, or gone on with.";
        text.counter("cloudkv_backups_started_total", help, &[], started);
        let help = "Backups that this node has ended, by their result.";
        let counts = [("complete", &self.completed), ("failed", &self.failed)];
        for (result, count) in counts {
            let labels = [("result", result)];
            let count = count.load(Ordering::Relaxed);
            text.counter("cloudkv_backups_total", help, &labels, count);
        }
        let records = self.records.load(Ordering::Relaxed);
        let help = "Records that this node has read for backups.";
        text.counter("cloudkv_backup_records_total", help, &[], records);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let help = "Compressed bytes that this node has written to backups.";
        text.counter("cloudkv_backup_bytes_total", help, &[], bytes);
        let help = "End of the last complete backup that this node has made, seconds since 1970; \
                    0: none since its start.";
        let last = self.last_completed() as f64;
        text.gauge(
            "cloudkv_backup_last_completed_timestamp_seconds",
            help,
            &[],
            last,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(status: &BackupStatus) -> String {
        let mut text = Exposition::new();
        status.write_metrics(&mut text);
        text.finish()
    }

    #[test]
    fn backups_are_counted_by_their_result() {
        let status = BackupStatus::default();
        let never = json!({"backups": {"running": false, "last_completed_at": null}});
        assert_eq!(status.status(), never);
        status.begin();
        assert_eq!(status.status()["backups"]["running"], true);
        status.end(false);
        // One that was interrupted is no complete one.
        assert_eq!(status.status(), never);
        status.begin();
        status.add_records(5);
        status.add_bytes(7);
        status.end(true);
        assert_eq!(status.status()["backups"]["running"], false);
        assert!(status.status()["backups"]["last_completed_at"].is_string());
        let text = metrics(&status);
        for line in [
            "cloudkv_backups_started_total 2\n",
            "cloudkv_backups_total{result=\"complete\"} 1\n",
            "cloudkv_backups_total{result=\"failed\"} 1\n",
            "cloudkv_backup_records_total 5\n",
            "cloudkv_backup_bytes_total 7\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
