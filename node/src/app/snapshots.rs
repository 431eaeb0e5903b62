//! Status and metrics of snapshots, and of the log that is retained for members that lag.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::groups::Groups;
use crate::raft::{SnapshotTransfers, TransferDirection, TransferStatus};
use crate::telemetry::metrics::Exposition;

/// Snapshot transfers of all groups.
pub(super) fn group_transfers(groups: &Groups) -> impl Iterator<Item = &SnapshotTransfers> {
    let shards = groups.shards.iter().map(|shard| shard.group().transfers());
    std::iter::once(groups.meta.transfers()).chain(shards)
}

/// Snapshots in transfer, and the last one from and to each other node.
pub(super) fn status(groups: &Groups) -> Vec<Value> {
    let all = group_transfers(groups).flat_map(SnapshotTransfers::statuses);
    all.map(|transfer| transfer_row(&transfer)).collect()
}

fn transfer_row(transfer: &TransferStatus) -> Value {
    json!({
        "group": transfer.group.to_string(),
        "direction": transfer.direction.as_str(),
        "node": transfer.node,
        "state": transfer.state(),
        "index": transfer.index,
        "bytes": transfer.bytes,
        "seconds": round_to_tenth(transfer.elapsed().as_secs_f64()),
        "mib_per_second": round_to_tenth(transfer.bytes_per_second() / f64::from(1 << 20)),
        "error": transfer.error,
    })
}

fn round_to_tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Status of the log that is retained for members that lag.
pub(super) fn log_retention_status(groups: &Groups) -> Value {
    let shards = groups.shards.iter().map(|shard| shard.group().retention());
    let all = std::iter::once(groups.meta.retention()).chain(shards);
    json!({
        "kept_entries": all.map(|retention| retention.retained_entries()).sum::<u64>(),
        "used_bytes": groups.log_budget.used_bytes(),
        "limit_bytes": groups.log_budget.limit_bytes(),
        "released": groups.log_budget.release_count(),
    })
}

/// Writes both as metrics.
pub(super) fn write_metrics(groups: &Groups, text: &mut Exposition) {
    for transfers in group_transfers(groups) {
        let group = transfers.group().to_string();
        for direction in [TransferDirection::Sent, TransferDirection::Received] {
            let labels = [("group", group.as_str()), ("direction", direction.as_str())];
            let counts = transfers.counts(direction);
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
    let budget = &groups.log_budget;
    let help = "Bytes of the log, out of the budget for members that lag.";
    text.gauge(
        "cloudkv_log_retention_used_bytes",
        help,
        &[],
        budget.used_bytes() as f64,
    );
    let help = "Budget of the log: beyond it members that lag need a snapshot.";
    text.gauge(
        "cloudkv_log_retention_limit_bytes",
        help,
        &[],
        budget.limit_bytes() as f64,
    );
    let help = "Times that a group released the log that it retained for members that lag.";
    text.counter(
        "cloudkv_log_retention_released_total",
        help,
        &[],
        budget.release_count(),
    );
}

#[cfg(test)]
mod tests {
    use super::round_to_tenth;

    #[test]
    fn numbers_are_rounded_to_one_decimal() {
        assert!((round_to_tenth(12.34) - 12.3).abs() < 1e-9);
    }
}
