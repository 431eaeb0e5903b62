//! Completes a decommission: finds the groups that still need a node, and removes the node when
//! there is none.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::failure_detector::FailureDetector;
use super::placement_controller::PlacementController;
use crate::meta::{Meta, NodeInfo, NodeState, Topology};
use crate::raft::{Group, NodeId, RaftMember};
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;

/// Groups of this node, and reports of the others about theirs.
#[derive(Clone, Copy)]
pub(crate) struct MembershipView<'a> {
    /// ID of this node.
    pub me: NodeId,
    /// Planned placement of everything.
    pub topology: &'a Topology,
    /// Metadata group.
    pub meta: &'a Group<Meta>,
    /// Shards of this node's region.
    pub shards: &'a [Arc<ShardHandle>],
    /// Reports of the other nodes.
    pub failure_detector: &'a FailureDetector,
}

impl MembershipView<'_> {
    /// Lists the groups that still need a node: those of which it is a member, or whose leader
    /// doesn't report the members. Every node is a member of the metadata, so there only its vote
    /// counts.
    pub(crate) fn groups_needing(&self, node: &NodeInfo) -> Vec<GroupId> {
        let (voters, _) = self.meta.members();
        let is_voter = voters.contains(&node.id) || self.meta.is_changing();
        let meta = is_voter.then_some(GroupId::META);
        let shards = (0..self.shards.len()).filter_map(|shard| u16::try_from(shard).ok());
        let needing = shards.filter(|shard| self.is_needed_by(*shard, node));
        meta.into_iter()
            .chain(needing.map(GroupId::shard))
            .collect()
    }

    fn is_needed_by(&self, shard: u16, node: &NodeInfo) -> bool {
        let placement = self.topology.placement(node.region, shard);
        if placement.is_none_or(|placement| placement.has_member(node.id)) {
            return true;
        }
        let members = self.members_of(shard, node.region);
        members.is_none_or(|members| members.contains(&node.id))
    }

    fn members_of(&self, shard: u16, region: u32) -> Option<Vec<NodeId>> {
        let is_in_region = |node| self.topology.is_in_region(node, region);
        let local_shard = self.shards.get(usize::from(shard));
        let local_shard = local_shard.filter(|_| is_in_region(self.me));
        if let Some(members) = local_shard.and_then(|shard| shard.group().members_if_leader()) {
            return Some(members);
        }
        self.failure_detector
            .members_of(GroupId::shard(shard), is_in_region)
    }
}

impl PlacementController {
    /// Returns whether this node is being decommissioned.
    pub(super) fn is_decommissioning(&self, topology: &Topology) -> bool {
        let own = topology.node(self.identity.node_id);
        own.is_some_and(|own| own.state == NodeState::Decommissioning)
    }

    /// Removes decommissioned nodes once they have no replica any more. The plan alone doesn't show
    /// that: the leaders of the groups do.
    pub(super) async fn finish_decommissions(&self, topology: &Topology) {
        let view = MembershipView {
            me: self.identity.node_id,
            topology,
            meta: &self.meta,
            shards: &self.shards,
            failure_detector: &self.failure_detector,
        };
        let decommissioning = topology.nodes().iter();
        let decommissioning =
            decommissioning.filter(|node| node.state == NodeState::Decommissioning);
        for node in decommissioning.filter(|node| view.groups_needing(node).is_empty()) {
            // Only if it wasn't recommissioned meanwhile.
            let command = Command::SetNodeState(pb::SetNodeState {
                node: node.id.into(),
                state: pb::NodeState::Removed.into(),
                expected: pb::NodeState::Leaving.into(),
            });
            self.try_propose(command, "remove a decommissioned node")
                .await;
        }
    }
}
