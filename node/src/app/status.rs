//! Status and metrics of the node, for the admin port.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use cloudkv_common::admin::Readiness;
use serde_json::{Value, json};

use super::groups::Groups;
use super::{availability, readiness, region_status, snapshots};
use crate::admin::AdminState;
use crate::api::Api;
use crate::config::Config;
use crate::meta::NodeState;
use crate::raft::{GroupStatus, NodeId};
use crate::telemetry::metrics::{Exposition, write_process};

/// Source of the node's status and metrics.
pub(super) struct NodeStatus {
    groups: Arc<Groups>,
    api: Arc<Api>,
    data_dir: String,
}

impl NodeStatus {
    /// Creates the status of a node.
    pub(super) fn new(groups: Arc<Groups>, api: Arc<Api>, config: &Config) -> Self {
        Self {
            groups,
            api,
            data_dir: config.data_dir.display().to_string(),
        }
    }

    fn group_statuses(&self) -> Vec<GroupStatus> {
        let hosted = self.groups.shards.iter().filter(|shard| shard.is_hosted());
        let shards = hosted.map(|shard| shard.status());
        std::iter::once(self.groups.meta.status())
            .chain(shards)
            .collect()
    }

    /// Nodes of the cluster, as this one sees them.
    fn nodes(&self) -> Vec<Value> {
        let topology = self.groups.catalog.topology();
        let (me, now) = (self.groups.identity.node_id, self.groups.clock.now());
        let nodes = topology.nodes().iter();
        nodes
            .filter(|node| availability::is_shown(node, now))
            .map(|node| {
                let health = self
                    .groups
                    .failure_detector
                    .health(node.id)
                    .filter(|_| node.id != me);
                let removed = (node.state == NodeState::Removed)
                    .then(|| availability::time_since_removal(node, now).as_secs());
                json!({
                    "id": node.id,
                    "name": node.display_name(),
                    "region": topology.region_name(node.region),
                    "rpc": node.rpc,
                    "http": node.http,
                    "state": node.state.name(),
                    "removed_seconds": removed,
                    "alive": availability::is_alive(&self.groups, node.id),
                    "version": node.version,
                    "level": node.level,
                    "shards": topology.shards_of_node(node.id).len(),
                    "clock_offset_ms": health.as_ref().map(|it| it.clock_offset as f64 / 1e6),
                    "round_trip_ms": health.as_ref().map(|it| it.round_trip.as_secs_f64() * 1e3),
                })
            })
            .collect()
    }

    /// Display name of this node.
    fn display_name(&self) -> String {
        let topology = self.groups.catalog.topology();
        let me = topology.node(self.groups.identity.node_id);
        me.map_or_else(String::new, |me| me.display_name().to_owned())
    }

    /// Describes which losses the region survives, available and without losing acknowledged
    /// writes: by the planned placement, by the current members of this node's groups, and by the
    /// nodes that are alive.
    fn describe_fault_tolerance(&self) -> Cow<'static, str> {
        let topology = self.groups.catalog.topology();
        let region = topology.region_number(&self.groups.identity.region);
        let placements = topology.placements_of(region.unwrap_or(0));
        let voters: Vec<&[NodeId]> = placements.map(|(_, it)| &it.voters[..]).collect();
        if voters.is_empty() || voters.iter().any(|voters| voters.len() < 3) {
            return "the loss of no node: a region needs three".into();
        }
        let statuses = self.group_statuses();
        if let Some(node) = statuses
            .iter()
            .map(|group| &group.voters[..])
            .chain(voters)
            .find_map(|voters| self.critical_loss(voters))
        {
            return format!("the loss of no node now: node {node} is unreachable").into();
        }
        let is_stable = |it: &GroupStatus| !it.is_changing && it.voters.len() >= 3;
        if statuses.iter().all(is_stable) {
            "the loss of any one node".into()
        } else {
            "the loss of no node yet: members are being changed".into()
        }
    }

    /// Returns a voter that isn't alive, if one more loss would take the majority.
    fn critical_loss(&self, voters: &[NodeId]) -> Option<NodeId> {
        let me = self.groups.identity.node_id;
        let is_lost =
            |node: &&NodeId| **node != me && !self.groups.failure_detector.is_alive(**node);
        let lost = voters.iter().filter(is_lost);
        let alive = voters.len() - lost.clone().count();
        lost.copied()
            .next()
            .filter(|_| alive <= voters.len() / 2 + 1)
    }

    fn write_api(&self, text: &mut Exposition) {
        let metrics = self.api.metrics();
        for count in metrics.request_counts() {
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
                "Bytes of response bodies.",
                metrics.bytes_out(),
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value);
        }
        metrics.connections.write(text);
    }

    fn write_groups(&self, text: &mut Exposition) {
        for status in self.group_statuses() {
            let group = status.group.to_string();
            let gauges = [
                ("cloudkv_raft_term", "Current term.", status.term),
                (
                    "cloudkv_raft_last_log_index",
                    "Index of the last entry in the log.",
                    status.last_log_index,
                ),
                (
                    "cloudkv_raft_applied_index",
                    "Index of the last applied entry.",
                    status.applied_index,
                ),
                (
                    "cloudkv_raft_purged_index",
                    "Index of the last purged entry.",
                    status.purged_index,
                ),
                (
                    "cloudkv_state_damaged",
                    "1 if this node's state of the group is damaged on its disk.",
                    u64::from(status.is_damaged),
                ),
                (
                    "cloudkv_raft_leads",
                    "1 if this node leads the group and answers its reads.",
                    u64::from(status.is_readable),
                ),
            ];
            for (name, help, value) in gauges {
                text.gauge(name, help, &[("group", &group)], value as f64);
            }
        }
    }

    /// Writes the metrics of replication lag, clocks and other nodes.
    fn write_cluster(&self, text: &mut Exposition) {
        for status in self.group_statuses() {
            let group = status.group.to_string();
            for (node, entries) in &status.lag {
                let node = node.to_string();
                let labels = [("group", group.as_str()), ("node", node.as_str())];
                let help = "Entries that a member is behind its leader, as reported by the leader.";
                text.gauge("cloudkv_raft_lag_entries", help, &labels, *entries as f64);
            }
        }
        let alarms = self.groups.replica_alarms.load(Ordering::Relaxed);
        let help = "Number of times that replicas of a shard differed after the same entry.";
        text.counter("cloudkv_replica_alarms_total", help, &[], alarms);
        let ok = f64::from(u8::from(self.groups.failure_detector.is_clock_ok()));
        let help = "1 if this node's clock is close enough to those of other nodes.";
        text.gauge("cloudkv_clock_ok", help, &[], ok);
        for node in self.groups.peers.node_numbers() {
            let id = node.to_string();
            let labels = [("node", id.as_str())];
            let alive = f64::from(u8::from(self.groups.failure_detector.is_alive(node)));
            let help = "1 if another node is alive, by its last pong.";
            text.gauge("cloudkv_node_alive", help, &labels, alive);
            if let Some(health) = self.groups.failure_detector.health(node) {
                let help = "Time that another node's clock is ahead of this node's.";
                let offset = health.clock_offset as f64 / 1e9;
                text.gauge("cloudkv_clock_offset_seconds", help, &labels, offset);
                let help = "The shortest of the last round trips to another node.";
                let round_trip = health.round_trip.as_secs_f64();
                text.gauge("cloudkv_node_round_trip_seconds", help, &labels, round_trip);
            }
        }
    }

    /// Writes the metrics of the rpc port's certificates, if it has any.
    fn write_certificates(&self, text: &mut Exposition) {
        let Some(tls) = self.groups.endpoint.dialer.tls() else {
            return;
        };
        let expires = tls.valid_until().duration_since(SystemTime::UNIX_EPOCH);
        let help = "Time at which this node's certificate expires, in seconds since 1970.";
        let expires = expires.map_or(0.0, |since_epoch| since_epoch.as_secs_f64());
        text.gauge(
            "cloudkv_rpc_certificate_expires_seconds",
            help,
            &[],
            expires,
        );
        let help = "1 if there are newer certificate files that can't be used.";
        let stale = f64::from(u8::from(tls.is_stale()));
        text.gauge("cloudkv_rpc_certificate_stale", help, &[], stale);
        let help = "Connections between nodes that were refused without a valid certificate.";
        let refused = tls.refused_connections();
        text.counter("cloudkv_rpc_refused_connections_total", help, &[], refused);
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
                "Appends that these fsyncs made durable.",
                &syncs.appends,
            ),
            (
                "cloudkv_log_sync_microseconds_total",
                "Time that fsyncs of the Raft logs took.",
                &syncs.micros,
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value.load(Ordering::Relaxed));
        }
        let gauges = [
            (
                "cloudkv_disk_free_bytes",
                "Free bytes of the data directory's disk.",
                self.groups.disk_space.free_bytes(),
            ),
            (
                "cloudkv_disk_low",
                "1 if free disk space is below the low-water mark, 2 if below a quarter of it.",
                self.groups.disk_space.state() as u64,
            ),
            (
                "cloudkv_log_disk_bytes",
                "Bytes of the log's files, including those that are kept for reuse.",
                engine.log.disk_bytes(),
            ),
            (
                "cloudkv_state_disk_bytes",
                "Bytes of the state's files.",
                engine.state.disk_bytes(),
            ),
            (
                "cloudkv_state_unflushed_bytes",
                "Bytes of the state that are only in memory, and in the log.",
                engine.state.unflushed_bytes(),
            ),
            (
                "cloudkv_block_cache_bytes",
                "Bytes of cached blocks.",
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
        let behind = self.groups.clock.wall_clock_offset() as f64 / 1e9;
        let help = "Time that the system's clock is ahead of the node's.";
        text.gauge("cloudkv_clock_behind_wall_seconds", help, &[], behind);
    }
}

/// Formats the lag of the other members.
fn format_lag(status: &GroupStatus) -> Vec<String> {
    let lag = status.lag.iter();
    lag.map(|(node, entries)| format!("{node}: {entries}"))
        .collect()
}

impl AdminState for NodeStatus {
    fn readiness(&self) -> Readiness {
        self.groups.readiness()
    }

    fn metrics(&self) -> String {
        let mut text = Exposition::new();
        self.write_api(&mut text);
        readiness::write_metrics(&self.groups, &mut text);
        self.write_groups(&mut text);
        self.write_cluster(&mut text);
        self.write_certificates(&mut text);
        region_status::write_metrics(&self.groups, &mut text);
        snapshots::write_metrics(&self.groups, &mut text);
        self.write_storage(&mut text);
        self.write_directory(&mut text);
        write_process(&mut text);
        text.finish()
    }

    fn status(&self) -> Value {
        let identity = &self.groups.identity;
        let shards = self.groups.shards.iter().filter(|shard| shard.is_hosted());
        let digests = shards.map(|shard| format!("{:016x}", shard.view().digest()));
        let groups = self
            .group_statuses()
            .into_iter()
            .zip(std::iter::once(String::new()).chain(digests));
        let groups: Vec<Value> = groups
            .map(|(status, digest)| {
                json!({
                    "group": status.group.to_string(),
                    "term": status.term,
                    "leader": status.leader,
                    "last_log": status.last_log_index,
                    "applied": status.applied_index,
                    "purged": status.purged_index,
                    "serving": status.is_readable,
                    "damaged": status.is_damaged,
                    "digest": digest,
                    "role": status.role,
                    "voters": status.voters,
                    "learners": status.learners,
                    "changing": status.is_changing,
                    "lag": format_lag(&status),
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": identity.cluster_id,
            "node": identity.node_id,
            "name": self.display_name(),
            "region": identity.region,
            "shards": identity.shards,
            "clock_ok": self.groups.failure_detector.is_clock_ok(),
            "ready": self.groups.readiness().is_ready(),
            "metadata": self.groups.metadata_state().to_string(),
            "survives": self.describe_fault_tolerance(),
            "unserved": availability::unserved_groups(&self.groups),
            "replica_alarms": self.groups.replica_alarms.load(Ordering::Relaxed),
            "certificate": availability::certificate_status(&self.groups),
            "regions": region_status::status(&self.groups),
            "held_for_regions": region_status::retained_status(&self.groups),
            "nodes": self.nodes(),
            "data_dir": self.data_dir,
            "accounts": self.groups.catalog.account_count(),
            "buckets": self.groups.catalog.bucket_count(),
            "disk_free_bytes": self.groups.disk_space.free_bytes(),
            "disk_state": self.groups.disk_space.state().name(),
            "log_disk_bytes": self.groups.engine.log.disk_bytes(),
            "state_disk_bytes": self.groups.engine.state.disk_bytes(),
            "clock_behind_wall_ms": self.groups.clock.wall_clock_offset() / 1_000_000,
            "groups": groups,
            "snapshots": snapshots::status(&self.groups),
            "log_retention": snapshots::log_retention_status(&self.groups),
        })
    }
}
