//! Availability of the region's groups as this node sees it.

use serde_json::{Value, json};

use super::LocalGroups;
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// Groups that nobody serves, as far as this node knows: of the metadata and the region's shards.
pub(super) fn unserved_groups(groups: &LocalGroups) -> Vec<Value> {
    let meta = (!is_metadata_served(groups)).then(|| {
        let (voters, _) = groups.meta.members();
        let voters: Vec<NodeId> = voters.into_iter().collect();
        group_row(groups, GroupId::META, &voters)
    });
    let shards = groups.shards.iter().zip(0_u16..);
    let shards = shards.filter(|(shard, _)| !is_shard_served(groups, shard));
    let shards = shards.map(|(shard, number)| {
        let voters = shard_voters(groups, shard, number);
        group_row(groups, GroupId::shard(number), &voters)
    });
    meta.into_iter().chain(shards).collect()
}

fn group_row(groups: &LocalGroups, group: GroupId, voters: &[NodeId]) -> Value {
    let unreachable = voters.iter().filter(|voter| !groups.is_alive(**voter));
    json!({
        "group": group.to_string(),
        "voters": voters,
        "unreachable": unreachable.collect::<Vec<_>>(),
    })
}

fn is_metadata_served(groups: &LocalGroups) -> bool {
    if groups.meta.may_read() {
        return true;
    }
    let (voters, _) = groups.meta.members();
    let alive = voters.iter().filter(|voter| groups.is_alive(**voter));
    let has_majority = alive.count() > voters.len() / 2;
    let leader = *groups.meta.leader().borrow();
    has_majority && leader.is_some_and(|leader| groups.is_alive(leader))
}

/// Returns whether most voters of a group are alive: they can elect a leader.
pub(crate) fn is_majority_alive(groups: &LocalGroups, group: GroupId) -> bool {
    let voters = group_voters(groups, group);
    let alive = voters.iter().filter(|voter| groups.is_alive(**voter));
    2 * alive.count() > voters.len()
}

fn group_voters(groups: &LocalGroups, group: GroupId) -> Vec<NodeId> {
    if group == GroupId::META {
        let (voters, _) = groups.meta.members();
        return voters.into_iter().collect();
    }
    let mut shards = groups.shards.iter().zip(0_u16..);
    let shard = shards.find(|(_, number)| GroupId::shard(*number) == group);
    shard.map_or_else(Vec::new, |(shard, number)| {
        shard_voters(groups, shard, number)
    })
}

fn is_shard_served(groups: &LocalGroups, shard: &ShardHandle) -> bool {
    let elsewhere = shard.remote_leader();
    shard.is_serving() || elsewhere.is_some_and(|leader| groups.is_alive(leader))
}

/// Current voters of a shard that this node holds, else those of the planned placement.
fn shard_voters(groups: &LocalGroups, shard: &ShardHandle, number: u16) -> Vec<NodeId> {
    if shard.is_hosted() {
        return shard.status().voters;
    }
    let topology = groups.catalog.topology();
    let placement = topology.placement(groups.identity.region_number, number);
    placement.map_or_else(Vec::new, |placement| placement.voters.clone())
}
