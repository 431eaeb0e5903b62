//! Status and metrics of the cluster as this node sees it.

use std::sync::atomic::Ordering;

use cloudkv_common::telemetry::metrics::Exposition;
use serde_json::{Value, json};

use super::availability::unserved_groups;
use super::loss_tolerance::describe_loss_tolerance;
use super::node_status::node_rows;
use super::{LocalGroups, ReadinessProbe};

/// Describes the cluster, this node and its groups: fields of the node's status.
pub(crate) fn cluster_status(groups: &LocalGroups, readiness: &ReadinessProbe) -> Value {
    let identity = &groups.identity;
    json!({
        "cluster": identity.cluster_id,
        "node": identity.node_id,
        "name": display_name(groups),
        "region": identity.region,
        "shards": identity.shards,
        "clock_ok": groups.failure_detector.is_clock_ok(),
        "ready": readiness.check().is_ready(),
        "metadata": readiness.metadata_state().to_string(),
        "survives": describe_loss_tolerance(groups),
        "unserved": unserved_groups(groups),
        "replica_alarms": groups.replica_alarms.load(Ordering::Relaxed),
        "nodes": node_rows(groups),
        "groups": group_rows(groups),
    })
}

/// Display name of this node.
fn display_name(groups: &LocalGroups) -> String {
    let topology = groups.catalog.topology();
    let me = topology.node(groups.identity.node_id);
    me.map_or_else(String::new, |me| me.display_name().to_owned())
}

/// Status of the metadata group and of the hosted shards.
fn group_rows(groups: &LocalGroups) -> Vec<Value> {
    let meta = groups.meta.status().to_json("");
    let shards = groups.hosted_shards().map(|shard| {
        let digest = format!("{:016x}", shard.view().digest());
        shard.status().to_json(&digest)
    });
    std::iter::once(meta).chain(shards).collect()
}

/// Writes the metrics of this node's replicas and clock, and of the other nodes.
pub(crate) fn write_cluster_metrics(groups: &LocalGroups, text: &mut Exposition) {
    let alarms = groups.replica_alarms.load(Ordering::Relaxed);
    let help = "Number of times that replicas of a group differed after the same entry.";
    text.counter("cloudkv_replica_alarms_total", help, &[], alarms);
    let ok = f64::from(u8::from(groups.failure_detector.is_clock_ok()));
    let help = "1 if this node's clock is close enough to those of other nodes.";
    text.gauge("cloudkv_clock_ok", help, &[], ok);
    for node in groups.peers.node_numbers() {
        let id = node.to_string();
        let labels = [("node", id.as_str())];
        let alive = f64::from(u8::from(groups.failure_detector.is_alive(node)));
        let help = "1 if another node is alive, by its last pong.";
        text.gauge("cloudkv_node_alive", help, &labels, alive);
        if let Some(health) = groups.failure_detector.health(node) {
            let help = "Time that another node's clock is ahead of this node's.";
            let offset = health.clock_offset as f64 / 1e9;
            text.gauge("cloudkv_clock_offset_seconds", help, &labels, offset);
            let help = "The shortest of the last round trips to another node.";
            let round_trip = health.round_trip.as_secs_f64();
            text.gauge("cloudkv_node_round_trip_seconds", help, &labels, round_trip);
        }
    }
}
