//! Describes which losses of nodes the region survives now.

use std::borrow::Cow;

use super::LocalGroups;
use crate::raft::GroupStatus;
use crate::types::NodeId;

/// Describes which losses the region survives, available and without losing acknowledged writes:
/// by the planned placement, by the current members of this node's groups, and by the nodes that
/// are alive.
pub(super) fn describe_loss_tolerance(groups: &LocalGroups) -> Cow<'static, str> {
    let topology = groups.catalog.topology();
    let region = topology.region_number(&groups.identity.region);
    let placements = topology.placements_of(region.unwrap_or(0));
    let voters: Vec<&[NodeId]> = placements.map(|(_, it)| &it.voters[..]).collect();
    if voters.is_empty() || voters.iter().any(|voters| voters.len() < 3) {
        return "the loss of no node: a region needs three".into();
    }
    let statuses = groups.statuses();
    if let Some(node) = statuses
        .iter()
        .map(|group| &group.voters[..])
        .chain(voters)
        .find_map(|voters| critical_loss(groups, voters))
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
fn critical_loss(groups: &LocalGroups, voters: &[NodeId]) -> Option<NodeId> {
    let lost = voters.iter().filter(|node| !groups.is_alive(**node));
    let alive = voters.len() - lost.clone().count();
    lost.copied()
        .next()
        .filter(|_| alive <= voters.len() / 2 + 1)
}
