//! What the operator's port tells of the node.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use cloudkv_common::admin::Readiness;
use serde_json::{Value, json};

use super::groups::Groups;
use super::{readiness, regions, serving, snapshots};
use crate::admin::AdminState;
use crate::api::Api;
use crate::config::Config;
use crate::meta::NodeState;
use crate::raft::{NodeId, Status};
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
        let hosted = self.groups.shards.iter().filter(|shard| shard.is_hosted());
        let shards = hosted.map(|shard| shard.status());
        std::iter::once(self.groups.meta.status())
            .chain(shards)
            .collect()
    }

    /// The nodes of the cluster, as this one sees them.
    fn nodes(&self) -> Vec<Value> {
        let topology = self.groups.catalog.topology();
        let (me, now) = (self.groups.identity.node_id, self.groups.clock.now());
        let nodes = topology.nodes().iter();
        nodes
            .filter(|node| serving::is_shown(node, now))
            .map(|node| {
                let vital = self.groups.vitals.of(node.id).filter(|_| node.id != me);
                let removed = (node.state == NodeState::Removed)
                    .then(|| serving::removed_for(node, now).as_secs());
                json!({
                    "id": node.id,
                    "name": node.display_name(),
                    "region": topology.region_name(node.region),
                    "rpc": node.rpc,
                    "http": node.http,
                    "state": format!("{:?}", node.state).to_lowercase(),
                    "removed_seconds": removed,
                    "alive": serving::is_alive(&self.groups, node.id),
                    "version": node.version,
                    "level": node.level,
                    "shards": topology.shards_of_node(node.id).len(),
                    "clock_offset_ms": vital.as_ref().map(|it| it.offset as f64 / 1e6),
                    "round_trip_ms": vital.as_ref().map(|it| it.round_trip.as_secs_f64() * 1e3),
                })
            })
            .collect()
    }

    /// What people call this node.
    fn name(&self) -> String {
        let topology = self.groups.catalog.topology();
        let me = topology.node(self.groups.identity.node_id);
        me.map_or_else(String::new, |me| me.display_name().to_owned())
    }

    /// What the region survives without losing anything that was acknowledged, and going on: as its
    /// shards are placed, as those on this node already have it, and as nodes are heard of.
    fn survives(&self) -> Cow<'static, str> {
        let topology = self.groups.catalog.topology();
        let region = topology.region_number(&self.groups.identity.region);
        let placements = topology.placements_of(region.unwrap_or(0));
        let voters: Vec<&[NodeId]> = placements.map(|(_, it)| &it.voters[..]).collect();
        if voters.is_empty() || voters.iter().any(|voters| voters.len() < 3) {
            return "the loss of no node: a region needs three".into();
        }
        let statuses = self.statuses();
        if let Some(node) = statuses
            .iter()
            .map(|group| &group.voters[..])
            .chain(voters)
            .find_map(|voters| self.lost_of(voters))
        {
            return format!("the loss of no node now: node {node} is not heard of").into();
        }
        let settled = |it: &Status| !it.changing && it.voters.len() >= 3;
        if statuses.iter().all(settled) {
            "the loss of any one node".into()
        } else {
            "the loss of no node yet: members are being changed".into()
        }
    }

    /// A voter that isn't heard of, if one more loss would take the majority.
    fn lost_of(&self, voters: &[NodeId]) -> Option<NodeId> {
        let me = self.groups.identity.node_id;
        let is_lost = |node: &&NodeId| **node != me && !self.groups.vitals.lives(**node);
        let lost = voters.iter().filter(is_lost);
        let living = voters.len() - lost.clone().count();
        lost.copied()
            .next()
            .filter(|_| living <= voters.len() / 2 + 1)
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
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &[], value);
        }
        metrics.connections.write(text);
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
                    "cloudkv_state_damaged",
                    "1 if this node's state of the group is damaged on its disk.",
                    u64::from(status.damaged),
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

    /// How far this node's copy of the cluster is from the others.
    fn write_cluster(&self, text: &mut Exposition) {
        for status in self.statuses() {
            let group = status.group.to_string();
            for (node, entries) in &status.lag {
                let node = node.to_string();
                let labels = [("group", group.as_str()), ("node", node.as_str())];
                let help = "Entries that a member is behind its leader, which tells it.";
                text.gauge("cloudkv_raft_lag_entries", help, &labels, *entries as f64);
            }
        }
        let alarms = self.groups.replica_alarms.load(Ordering::Relaxed);
        let help = "Times that replicas of a shard held something else after the same entry.";
        text.counter("cloudkv_replica_alarms_total", help, &[], alarms);
        let ok = f64::from(u8::from(self.groups.vitals.clock_ok()));
        let help = "1 if this node's clock is near enough to the others.";
        text.gauge("cloudkv_clock_ok", help, &[], ok);
        for node in self.groups.peers.known() {
            let id = node.to_string();
            let labels = [("node", id.as_str())];
            let alive = f64::from(u8::from(self.groups.vitals.lives(node)));
            let help = "1 if another node was heard of lately.";
            text.gauge("cloudkv_node_alive", help, &labels, alive);
            if let Some(vital) = self.groups.vitals.of(node) {
                let help = "How far another node's clock is ahead.";
                let offset = vital.offset as f64 / 1e9;
                text.gauge("cloudkv_clock_offset_seconds", help, &labels, offset);
                let help = "The shortest of the last round trips to another node.";
                let trip = vital.round_trip.as_secs_f64();
                text.gauge("cloudkv_node_round_trip_seconds", help, &labels, trip);
            }
        }
    }

    /// The certificates of the port for other nodes, if it has any.
    fn write_certificates(&self, text: &mut Exposition) {
        let Some(tls) = self.groups.place.dialer.tls() else {
            return;
        };
        let until = tls.valid_until().duration_since(SystemTime::UNIX_EPOCH);
        let help = "When this node's certificate expires, in seconds since 1970.";
        let until = until.map_or(0.0, |until| until.as_secs_f64());
        text.gauge("cloudkv_rpc_certificate_expires_seconds", help, &[], until);
        let help = "1 if there are newer certificate files, which can't be used.";
        let stale = f64::from(u8::from(tls.is_stale()));
        text.gauge("cloudkv_rpc_certificate_stale", help, &[], stale);
        let help = "Connections between nodes refused for want of a certificate that counts.";
        let strangers = tls.strangers();
        text.counter(
            "cloudkv_rpc_refused_connections_total",
            help,
            &[],
            strangers,
        );
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
                "cloudkv_disk_free_bytes",
                "Room that is left where the data directory is.",
                self.groups.space.free(),
            ),
            (
                "cloudkv_disk_low",
                "1 if that is below the low-water mark, 2 if below a quarter of it.",
                self.groups.space.state() as u64,
            ),
            (
                "cloudkv_log_disk_bytes",
                "Files of the log, those included that are kept to be used again.",
                engine.log.disk_bytes(),
            ),
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

/// How far the other members are behind, as text.
fn lag(status: &Status) -> Vec<String> {
    let lag = status.lag.iter();
    lag.map(|(node, entries)| format!("{node}: {entries}"))
        .collect()
}

impl AdminState for Observer {
    fn ready(&self) -> Readiness {
        self.groups.readiness()
    }

    fn metrics(&self) -> String {
        let mut text = Exposition::new();
        self.write_api(&mut text);
        readiness::write_metrics(&self.groups, &mut text);
        self.write_groups(&mut text);
        self.write_cluster(&mut text);
        self.write_certificates(&mut text);
        regions::write_metrics(&self.groups, &mut text);
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
                    "damaged": status.damaged,
                    "digest": digest,
                    "role": status.role,
                    "voters": status.voters,
                    "learners": status.learners,
                    "changing": status.changing,
                    "lag": lag(&status),
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": identity.cluster_id,
            "node": identity.node_id,
            "name": self.name(),
            "region": identity.region,
            "shards": identity.shards,
            "clock_ok": self.groups.vitals.clock_ok(),
            "ready": self.groups.readiness().is_ready(),
            "metadata": self.groups.metadata_state().to_string(),
            "survives": self.survives(),
            "unserved": serving::unserved(&self.groups),
            "replica_alarms": self.groups.replica_alarms.load(Ordering::Relaxed),
            "certificate": serving::certificate(&self.groups),
            "regions": regions::status(&self.groups),
            "held_for_regions": regions::held(&self.groups),
            "nodes": self.nodes(),
            "data_dir": self.data_dir,
            "accounts": self.groups.catalog.account_count(),
            "buckets": self.groups.catalog.bucket_count(),
            "disk_free_bytes": self.groups.space.free(),
            "disk_state": self.groups.space.state().name(),
            "log_disk_bytes": self.groups.engine.log.disk_bytes(),
            "state_disk_bytes": self.groups.engine.state.disk_bytes(),
            "clock_behind_wall_ms": self.groups.clock.behind_wall() / 1_000_000,
            "groups": groups,
            "snapshots": snapshots::status(&self.groups),
            "log_retention": snapshots::log(&self.groups),
        })
    }
}
