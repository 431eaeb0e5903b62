//! Status and metrics of snapshot transfers.

use std::sync::atomic::Ordering;

use cloudkv_common::telemetry::metrics::Exposition;
use serde_json::{Value, json};

use super::{SnapshotTransfers, TransferDirection, TransferStatus};

impl TransferStatus {
    /// Describes the transfer for the node's status.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "group": self.group.to_string(),
            "direction": self.direction.as_str(),
            "node": self.node,
            "state": self.state(),
            "index": self.index,
            "bytes": self.bytes,
            "seconds": round_to_tenth(self.elapsed().as_secs_f64()),
            "mib_per_second": round_to_tenth(self.bytes_per_second() / f64::from(1 << 20)),
            "error": self.error,
        })
    }
}

fn round_to_tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

impl SnapshotTransfers {
    /// Writes the totals of a group's transfers.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let group = self.group().to_string();
        for direction in [TransferDirection::Sent, TransferDirection::Received] {
            let labels = [("group", group.as_str()), ("direction", direction.as_str())];
            let counts = self.counts(direction);
            let counters = [
                (
                    "cloudkv_snapshot_bytes_total",
                    "Bytes of snapshots transferred from or to this node.",
                    &counts.bytes,
                ),
                (
                    "cloudkv_snapshots_total",
                    "Snapshots sent or received completely.",
                    &counts.completed,
                ),
                (
                    "cloudkv_snapshot_failures_total",
                    "Snapshots that failed after their transfer had begun.",
                    &counts.failed,
                ),
            ];
            for (name, help, count) in counters {
                text.counter(name, help, &labels, count.load(Ordering::Relaxed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::round_to_tenth;

    #[test]
    fn numbers_are_rounded_to_one_decimal() {
        assert!((round_to_tenth(12.34) - 12.3).abs() < 1e-9);
    }
}
