//! Status and metrics of a group.

use cloudkv_common::telemetry::metrics::Exposition;
use serde_json::{Value, json};

use super::GroupStatus;

impl GroupStatus {
    /// Describes the group for the node's status. `digest` is that of its state, if it has one.
    pub(crate) fn to_json(&self, digest: &str) -> Value {
        let lag = self.lag.iter();
        let lag: Vec<String> = lag
            .map(|(node, entries)| format!("{node}: {entries}"))
            .collect();
        json!({
            "group": self.group.to_string(),
            "term": self.term,
            "leader": self.leader,
            "last_log": self.last_log_index,
            "applied": self.applied_index,
            "purged": self.purged_index,
            "serving": self.is_readable,
            "damaged": self.is_damaged,
            "digest": digest,
            "role": self.role,
            "voters": self.voters,
            "learners": self.learners,
            "changing": self.is_changing,
            "lag": lag,
        })
    }

    /// Writes the group's metrics.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let group = self.group.to_string();
        let gauges = [
            ("cloudkv_raft_term", "Current term.", self.term),
            (
                "cloudkv_raft_last_log_index",
                "Index of the last entry in the log.",
                self.last_log_index,
            ),
            (
                "cloudkv_raft_applied_index",
                "Index of the last applied entry.",
                self.applied_index,
            ),
            (
                "cloudkv_raft_purged_index",
                "Index of the last purged entry.",
                self.purged_index,
            ),
            (
                "cloudkv_state_damaged",
                "1 if this node's state of the group is damaged on its disk.",
                u64::from(self.is_damaged),
            ),
            (
                "cloudkv_raft_leads",
                "1 if this node leads the group and answers its reads.",
                u64::from(self.is_readable),
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &[("group", group.as_str())], value as f64);
        }
        for (node, entries) in &self.lag {
            let node = node.to_string();
            let labels = [("group", group.as_str()), ("node", node.as_str())];
            let help = "Entries that a member is behind its leader, as reported by the leader.";
            text.gauge("cloudkv_raft_lag_entries", help, &labels, *entries as f64);
        }
    }
}
