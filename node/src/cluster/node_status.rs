//! The cluster's nodes in the status, as this node sees them.

use std::time::Duration;

use serde_json::{Value, json};

use super::LocalGroups;
use crate::meta::{NodeInfo, NodeState};
use crate::types::Nanos;

/// Time for which a removed node is still shown.
const REMOVED_NODE_RETENTION: Duration = Duration::from_secs(3600);

/// Nodes of the cluster, as this one sees them.
pub(super) fn node_rows(groups: &LocalGroups) -> Vec<Value> {
    let topology = groups.catalog.topology();
    let (me, now) = (groups.identity.node_id, groups.clock.now());
    let nodes = topology.nodes().iter();
    nodes
        .filter(|node| is_shown(node, now))
        .map(|node| {
            let health = groups.failure_detector.health(node.id);
            let health = health.filter(|_| node.id != me);
            let removed =
                (node.state == NodeState::Removed).then(|| time_since_removal(node, now).as_secs());
            json!({
                "id": node.id,
                "name": node.display_name(),
                "region": topology.region_name(node.region),
                "rpc": node.rpc,
                "http": node.http,
                "state": node.state.name(),
                "removed_seconds": removed,
                "alive": groups.is_alive(node.id),
                "version": node.version,
                "level": node.level,
                "shards": topology.shards_of_node(node.id).len(),
                "clock_offset_ms": health.as_ref().map(|it| it.clock_offset as f64 / 1e6),
                "round_trip_ms": health.as_ref().map(|it| it.round_trip.as_secs_f64() * 1e3),
            })
        })
        .collect()
}

/// Returns whether a node is shown: removed ones are for an hour.
fn is_shown(node: &NodeInfo, now: Nanos) -> bool {
    node.state != NodeState::Removed || time_since_removal(node, now) < REMOVED_NODE_RETENTION
}

/// Time since a node was removed.
fn time_since_removal(node: &NodeInfo, now: Nanos) -> Duration {
    Duration::from_nanos(now.saturating_sub(node.removed_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_node_is_shown_for_an_hour() {
        let hour = 3_600_000_000_000;
        let mut node = NodeInfo {
            id: 7,
            region: 1,
            rpc: "n7:7070".into(),
            http: "n7:8080".into(),
            state: NodeState::Removed,
            level: 1,
            version: String::new(),
            joined_at: 1,
            name: String::new(),
            removed_at: 10 * hour,
        };
        assert!(is_shown(&node, 11 * hour - 1));
        assert!(!is_shown(&node, 11 * hour));
        node.state = NodeState::Decommissioning;
        assert!(is_shown(&node, 11 * hour));
    }
}
