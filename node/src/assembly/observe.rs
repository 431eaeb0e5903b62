//! What the operator's port tells of the node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::groups::Groups;
use crate::admin::AdminState;
use crate::api::Api;
use crate::config::Config;
use crate::raft::Status;
use crate::telemetry::metrics::{Exposition, write_process};

/// The node as the operator's port sees it.
pub struct Observer {
    groups: Arc<Groups>,
    api: Arc<Api>,
    data_dir: String,
}

impl Observer {
    /// Observes a node.
    pub fn new(groups: Arc<Groups>, api: Arc<Api>, config: &Config) -> Self {
        Self {
            groups,
            api,
            data_dir: config.data_dir.display().to_string(),
        }
    }

    fn statuses(&self) -> Vec<Status> {
        let shards = self.groups.shards.iter().map(|shard| shard.status());
        std::iter::once(self.groups.meta.status())
            .chain(shards)
            .collect()
    }

    fn write_api(&self, text: &mut Exposition) {
        let metrics = self.api.metrics();
        for count in metrics.requests() {
            let status = format!("{}xx", count.status);
            let labels = [("class", count.class.name()), ("status", status.as_str())];
            let help = "Requests of the public API that were answered.";
            text.counter("cloudkv_http_requests_total", help, &labels, count.count);
        }
        let counters = [
            (
                "cloudkv_http_received_bytes_total",
                "Bytes of request bodies.",
                metrics.bytes_in(),
            ),
            (
                "cloudkv_http_sent_bytes_total",
                "Bytes of answers' bodies.",
                metrics.bytes_out(),
            ),
            (
                "cloudkv_http_connections_total",
                "Connections that were accepted.",
                metrics.accepted_connections(),
            ),
            (
                "cloudkv_http_connections_refused_total",
                "Connections beyond the limit, which were refused.",
                metrics.refused_connections(),
            ),
            (
                "cloudkv_http_connections_cut_total",
                "Connections that were cut when their time was over.",
                metrics.cut_connections(),
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value);
        }
        let open = metrics.open_connections() as f64;
        text.gauge("cloudkv_http_connections", "Open connections.", &[], open);
    }

    fn write_groups(&self, text: &mut Exposition) {
        for status in self.statuses() {
            let group = status.group.to_string();
            let gauges = [
                ("cloudkv_raft_term", "Current term.", status.term),
                (
                    "cloudkv_raft_last_log_index",
                    "Last entry in the log.",
                    status.last_log,
                ),
                (
                    "cloudkv_raft_applied_index",
                    "Last applied entry.",
                    status.applied,
                ),
                (
                    "cloudkv_raft_purged_index",
                    "Last entry purged.",
                    status.purged,
                ),
                (
                    "cloudkv_raft_leads",
                    "1 if this node leads the group and answers its reads.",
                    u64::from(status.readable),
                ),
            ];
            for (name, help, value) in gauges {
                text.gauge(name, help, &[("group", &group)], value as f64);
            }
        }
    }

    fn write_storage(&self, text: &mut Exposition) {
        let engine = &self.groups.engine;
        let syncs = engine.log.sync_stats();
        let counters = [
            (
                "cloudkv_log_syncs_total",
                "Fsyncs of the Raft logs.",
                &syncs.syncs,
            ),
            (
                "cloudkv_log_appends_total",
                "Appends that those made durable.",
                &syncs.appends,
            ),
            (
                "cloudkv_log_sync_microseconds_total",
                "Time that they took.",
                &syncs.micros,
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value.load(Ordering::Relaxed));
        }
        let gauges = [
            (
                "cloudkv_state_disk_bytes",
                "Files of the state.",
                engine.state.disk_bytes(),
            ),
            (
                "cloudkv_state_unflushed_bytes",
                "State that is only in memory, and in the log.",
                engine.state.unflushed_bytes(),
            ),
            (
                "cloudkv_block_cache_bytes",
                "Cached blocks.",
                engine.cache_usage() as u64,
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &[], value as f64);
        }
    }

    fn write_directory(&self, text: &mut Exposition) {
        let gauges = [
            (
                "cloudkv_accounts",
                "Accounts of the cluster.",
                self.groups.catalog.account_count(),
            ),
            (
                "cloudkv_buckets",
                "Buckets of the cluster.",
                self.groups.catalog.bucket_count(),
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &[], value as f64);
        }
        let behind = self.groups.clock.behind_wall() as f64 / 1e9;
        let help = "How far the system's clock is ahead of the node's.";
        text.gauge("cloudkv_clock_behind_wall_seconds", help, &[], behind);
    }
}

impl AdminState for Observer {
    fn ready(&self) -> Vec<(String, bool)> {
        self.groups.readiness()
    }

    fn metrics(&self) -> String {
        let mut text = Exposition::new();
        self.write_api(&mut text);
        self.write_groups(&mut text);
        self.write_storage(&mut text);
        self.write_directory(&mut text);
        write_process(&mut text);
        text.finish()
    }

    fn status(&self) -> Value {
        let identity = &self.groups.identity;
        let shards = self.groups.shards.iter();
        let digests = shards.map(|shard| format!("{:016x}", shard.view().digest()));
        let groups = self
            .statuses()
            .into_iter()
            .zip(std::iter::once(String::new()).chain(digests));
        let groups: Vec<Value> = groups
            .map(|(status, digest)| {
                json!({
                    "group": status.group.to_string(),
                    "term": status.term,
                    "leader": status.leader,
                    "last_log": status.last_log,
                    "applied": status.applied,
                    "purged": status.purged,
                    "serving": status.readable,
                    "digest": digest,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": identity.cluster_id,
            "node": identity.node_id,
            "region": identity.region,
            "data_dir": self.data_dir,
            "accounts": self.groups.catalog.account_count(),
            "buckets": self.groups.catalog.bucket_count(),
            "state_disk_bytes": self.groups.engine.state.disk_bytes(),
            "clock_behind_wall_ms": self.groups.clock.behind_wall() / 1_000_000,
            "groups": groups,
        })
    }
}
