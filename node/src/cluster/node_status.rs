//! The cluster's nodes in the status, as this node sees them.

use std::time::Duration;

use serde_json::{Value, json};

use super::LocalGroups;
use crate::meta::{NodeInfo, NodeState};
use crate::types::Nanos;

/// Time for which a removed node is still shown.
const REMOVED_NODE_RETENTION: Duration = Duration::from_secs(3600);
/// Time after its admission within which a node that wasn't heard yet counts as joining.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(10);

/// Nodes of the cluster, as this one sees them.
pub(super) fn node_rows(groups: &LocalGroups) -> Vec<Value> {
    let topology = groups.catalog.topology();
    let (me, now) = (groups.identity.node_id, groups.clock.now());
    let nodes = topology.nodes().iter();
    nodes
        .filter(|node| is_shown(node, now))
        .map(|node| {
            let health = groups.failure_detector.health(node.id);
            let was_heard = health.is_some() || node.id == me;
            let health = health.filter(|_| node.id != me);
            let removed =
                (node.state == NodeState::Removed).then(|| time_since_removal(node, now).as_secs());
            let is_alive = groups.is_alive(node.id);
            // The placements of a removed region stay as they were.
            let shards = match node.state {
                NodeState::Removed => 0,
                NodeState::Active | NodeState::Decommissioning => {
                    topology.shards_of_node(node.id).len()
                }
            };
            let is_unreachable = !is_alive && node.state != NodeState::Removed;
            json!({
                "id": node.id,
                "name": node.display_name(),
                "region": topology.known_region_name(node.region),
                "rpc": node.rpc,
                "http": node.http,
                "state": node.state.name(),
                "removed_seconds": removed,
                "alive": is_alive,
                "unreachable_reason": is_unreachable.then(|| groups.unreachable_reason(node.id)),
                "joining": !was_heard && has_just_joined(node, now),
                "version": node.version,
                "level": node.level,
                "shards": shards,
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

/// Returns whether a node was admitted so lately that it may not be heard yet.
fn has_just_joined(node: &NodeInfo, now: Nanos) -> bool {
    let age = Duration::from_nanos(now.saturating_sub(node.joined_at));
    node.state != NodeState::Removed && age < FIRST_CONTACT_TIMEOUT
}

/// Time since a node was removed.
fn time_since_removal(node: &NodeInfo, now: Nanos) -> Duration {
    Duration::from_nanos(now.saturating_sub(node.removed_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    const SECOND: Nanos = 1_000_000_000;
    const HOUR: Nanos = 3600 * SECOND;

    fn node(state: NodeState, joined_at: Nanos, removed_at: Nanos) -> NodeInfo {
        NodeInfo {
            id: NodeId::from(7),
            region: 1,
            rpc: "n7:7070".into(),
            http: "n7:8080".into(),
            state,
            level: 1,
            version: String::new(),
            joined_at,
            name: String::new(),
            removed_at,
        }
    }

    #[test]
    fn a_removed_node_is_shown_for_an_hour() {
        let removed = node(NodeState::Removed, 1, 10 * HOUR);
        assert!(is_shown(&removed, 11 * HOUR - 1));
        assert!(!is_shown(&removed, 11 * HOUR));
        let decommissioning = node(NodeState::Decommissioning, 1, 0);
        assert!(is_shown(&decommissioning, 11 * HOUR));
    }

    #[test]
    fn a_node_may_not_be_heard_yet_within_seconds_of_its_admission() {
        let new = node(NodeState::Active, HOUR, 0);
        assert!(has_just_joined(&new, HOUR + SECOND));
        // The clock of the leader that admitted it is a little ahead.
        assert!(has_just_joined(&new, HOUR - SECOND));
        assert!(!has_just_joined(&new, HOUR + 10 * SECOND));
        let replaced = node(NodeState::Removed, HOUR, HOUR);
        assert!(!has_just_joined(&replaced, HOUR + SECOND));
    }
}
