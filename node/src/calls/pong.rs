//! Answers the pings of other nodes' failure detectors.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::reply;

use crate::cluster::LocalGroups;
use crate::raft::RaftMember;
use crate::store::{DiskSpace, DiskState};

/// Builds this node's reply to a ping. `members` are all groups, by number.
pub(super) fn pong(
    groups: &LocalGroups,
    members: &[Arc<dyn RaftMember>],
    disk_space: &DiskSpace,
) -> reply::Body {
    let reports = members.iter().zip(0..);
    let reports = reports.filter_map(|(member, group)| {
        let nodes = member.members_if_leader()?;
        let nodes = nodes.into_iter().map(u64::from).collect();
        Some(pb::GroupMembers { group, nodes })
    });
    groups.failure_detector.pong(pb::Pong {
        leads: groups_where(members, |it| it.is_leader()),
        members: reports.collect(),
        damaged: groups_where(members, |it| it.is_in_repair()),
        disk_low: disk_space.state() != DiskState::Ample,
        catching_up: is_catching_up(groups),
        ..Default::default()
    })
}

/// Numbers of the groups for which a predicate holds on this node.
fn groups_where(
    members: &[Arc<dyn RaftMember>],
    predicate: impl Fn(&dyn RaftMember) -> bool,
) -> Vec<u32> {
    let groups = members.iter().enumerate();
    let selected = groups.filter(|(_, member)| predicate(&***member));
    selected
        .filter_map(|(group, _)| u32::try_from(group).ok())
        .collect()
}

/// Returns whether this node should vote in a shard but doesn't yet, since it lacks the shard's
/// state.
fn is_catching_up(groups: &LocalGroups) -> bool {
    let topology = groups.catalog.topology();
    let Some(region) = topology.region_number(&groups.identity.region) else {
        return false;
    };
    let me = groups.identity.node_id;
    groups.shards.iter().zip(0..).any(|(shard, number)| {
        let placement = topology.placement(region, number);
        let should_vote = placement.is_some_and(|placement| placement.voters.contains(&me));
        should_vote && !shard.group().is_voter(me)
    })
}
