//! The end of a decommission: which groups a node is still needed for, and its removal when there is
//! none.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::keeper::Keeper;
use super::vitals::Vitals;
use crate::meta::{Meta, NAMES_LEVEL, NodeInfo, NodeState, Topology};
use crate::raft::{Group, Member, NodeId};
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;

/// This node's groups, and what others say of theirs.
#[derive(Clone, Copy)]
pub struct GroupView<'a> {
    /// This node.
    pub me: NodeId,
    /// Where everything should be.
    pub topology: &'a Topology,
    /// The metadata.
    pub meta: &'a Group<Meta>,
    /// All shards of this node's region.
    pub shards: &'a [Arc<ShardHandle>],
    /// What others say.
    pub vitals: &'a Vitals,
}

impl GroupView<'_> {
    /// The groups that a node is still needed for: those of which it is a member, or whose leader
    /// doesn't say who is. Of the metadata every node is a member, so there only its vote counts.
    pub fn held_by(&self, node: &NodeInfo) -> Vec<GroupId> {
        let (voters, _) = self.meta.members();
        let votes = voters.contains(&node.id) || self.meta.is_changing();
        let meta = votes.then_some(GroupId::META);
        let shards = (0..self.shards.len()).filter_map(|shard| u16::try_from(shard).ok());
        let held = shards.filter(|shard| self.is_held(*shard, node));
        meta.into_iter().chain(held.map(GroupId::shard)).collect()
    }

    fn is_held(&self, shard: u16, node: &NodeInfo) -> bool {
        let placement = self.topology.placement(node.region, shard);
        if placement.is_none_or(|placement| placement.names(node.id)) {
            return true;
        }
        let members = self.members_of(shard, node.region);
        members.is_none_or(|members| members.contains(&node.id))
    }

    fn members_of(&self, shard: u16, region: u32) -> Option<Vec<NodeId>> {
        let is_of = |node| {
            self.topology
                .node(node)
                .is_some_and(|it| it.region == region)
        };
        let here = self.shards.get(usize::from(shard));
        let here = here.filter(|_| is_of(self.me));
        if let Some(members) = here.and_then(|shard| shard.group().led_members()) {
            return Some(members);
        }
        self.vitals.members_of(GroupId::shard(shard), is_of)
    }
}

impl Keeper {
    /// Whether this node is being decommissioned.
    pub(super) fn is_leaving(&self, topology: &Topology) -> bool {
        let me = topology.node(self.identity.node_id);
        me.is_some_and(|me| me.state == NodeState::Leaving)
    }

    /// Removes nodes that are being decommissioned once they hold nothing any more. The plan alone
    /// doesn't tell: the leaders of the groups do.
    pub(super) async fn end_decommissions(&self, topology: &Topology) {
        if self.catalog.header().level < NAMES_LEVEL {
            return;
        }
        let view = GroupView {
            me: self.identity.node_id,
            topology,
            meta: &self.meta,
            shards: &self.shards,
            vitals: &self.vitals,
        };
        let leaving = topology.nodes().iter();
        let leaving = leaving.filter(|node| node.state == NodeState::Leaving);
        for node in leaving.filter(|node| view.held_by(node).is_empty()) {
            // Not if it was recommissioned meanwhile.
            let command = Command::SetNodeState(pb::SetNodeState {
                node: node.id,
                state: pb::NodeState::Removed.into(),
                expected: pb::NodeState::Leaving.into(),
            });
            self.try_propose(command, "remove a decommissioned node")
                .await;
        }
    }
}
