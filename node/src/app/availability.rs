//! Availability of the region's groups as this node sees it, for the admin port.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::groups::Groups;
use crate::meta::{NodeInfo, NodeState};
use crate::raft::NodeId;
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;
use crate::types::Nanos;

/// Time for which a removed node is still shown.
const REMOVED_NODE_RETENTION: Duration = Duration::from_secs(3600);

/// Returns whether a node is alive; this one always is.
pub(super) fn is_alive(groups: &Groups, node: NodeId) -> bool {
    node == groups.identity.node_id || groups.failure_detector.is_alive(node)
}

/// Groups that nobody serves, as far as this node knows: of the metadata and the region's shards.
pub(super) fn unserved_groups(groups: &Groups) -> Vec<Value> {
    let meta = (!is_metadata_served(groups)).then(|| {
        let (voters, _) = groups.meta.members();
        group_row(
            groups,
            GroupId::META,
            &voters.into_iter().collect::<Vec<_>>(),
        )
    });
    let shards = groups.shards.iter().zip(0_u16..);
    let shards = shards.filter(|(shard, _)| !is_shard_served(groups, shard));
    let shards = shards.map(|(shard, number)| {
        group_row(
            groups,
            GroupId::shard(number),
            &shard_voters(groups, shard, number),
        )
    });
    meta.into_iter().chain(shards).collect()
}

fn group_row(groups: &Groups, group: GroupId, voters: &[NodeId]) -> Value {
    let unreachable = voters.iter().filter(|voter| !is_alive(groups, **voter));
    json!({
        "group": group.to_string(),
        "voters": voters,
        "unreachable": unreachable.collect::<Vec<_>>(),
    })
}

fn is_metadata_served(groups: &Groups) -> bool {
    if groups.meta.may_read() {
        return true;
    }
    let (voters, _) = groups.meta.members();
    let alive = voters.iter().filter(|voter| is_alive(groups, **voter));
    let has_majority = alive.count() > voters.len() / 2;
    let leader = *groups.meta.leader().borrow();
    has_majority && leader.is_some_and(|leader| is_alive(groups, leader))
}

fn is_shard_served(groups: &Groups, shard: &ShardHandle) -> bool {
    let elsewhere = shard.remote_leader();
    shard.is_serving() || elsewhere.is_some_and(|leader| is_alive(groups, leader))
}

/// Current voters of a shard that this node holds, else those of the planned placement.
fn shard_voters(groups: &Groups, shard: &ShardHandle, number: u16) -> Vec<NodeId> {
    if shard.is_hosted() {
        return shard.status().voters;
    }
    let topology = groups.catalog.topology();
    let placement = topology.placement(groups.identity.region_number, number);
    placement.map_or_else(Vec::new, |placement| placement.voters.clone())
}

/// Returns whether a node is shown: removed ones are for an hour.
pub(super) fn is_shown(node: &NodeInfo, now: Nanos) -> bool {
    node.state != NodeState::Removed || time_since_removal(node, now) < REMOVED_NODE_RETENTION
}

/// Time since a node was removed.
pub(super) fn time_since_removal(node: &NodeInfo, now: Nanos) -> Duration {
    Duration::from_nanos(now.saturating_sub(node.removed_at))
}

/// Status of the rpc port's certificate, if there is one.
pub(super) fn certificate_status(groups: &Groups) -> Option<Value> {
    let tls = groups.endpoint.dialer.tls()?;
    let left = tls.valid_until().duration_since(SystemTime::now());
    let days = left.map_or(0, |left| left.as_secs() / 86_400);
    Some(json!({ "days_left": days, "stale": tls.is_stale() }))
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
            level: 5,
            version: String::new(),
            joined_at: 1,
            name: String::new(),
            removed_at: 10 * hour,
        };
        assert!(is_shown(&node, 11 * hour - 1));
        assert!(!is_shown(&node, 11 * hour));
        // The time of the removal is unknown.
        node.removed_at = 0;
        assert!(!is_shown(&node, 11 * hour));
        node.state = NodeState::Decommissioning;
        assert!(is_shown(&node, 11 * hour));
    }
}
