//! Facts from which it is decided whether this node can recover groups by force.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::raft::{LogPosition, LogSummary};
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// What this node knows of the cluster, and what other nodes have told it.
#[derive(Clone, Debug)]
pub(super) struct ClusterFacts {
    /// This node.
    pub node: NodeId,
    /// Name of its region.
    pub region: String,
    /// Nodes of its region, this one included, that weren't removed.
    pub region_nodes: BTreeSet<NodeId>,
    /// Names of all known nodes.
    pub names: BTreeMap<NodeId, String>,
    /// Nodes that can be reached, this one included.
    pub alive: BTreeSet<NodeId>,
    /// True if the metadata has a leader, which this node reaches.
    pub is_metadata_led: bool,
    /// Voters of the metadata, as in [`LogSummary::voter_sets`].
    pub metadata_voters: Vec<BTreeSet<NodeId>>,
    /// The other regions that aren't being removed.
    pub other_regions: Vec<OtherRegion>,
    /// The groups that are to be recovered.
    pub groups: Vec<GroupFacts>,
}

/// A region that a region can join anew.
#[derive(Clone, Debug)]
pub(super) struct OtherRegion {
    /// Its name.
    pub name: String,
    /// True while its shards are seeded, and don't serve yet.
    pub is_joining: bool,
    /// Addresses of its active nodes that can be reached.
    pub addresses: Vec<String>,
}

/// A group on this node, and what its other members have told.
#[derive(Clone, Debug)]
pub(super) struct GroupFacts {
    /// The group.
    pub group: GroupId,
    /// True if it has a leader now.
    pub has_leader: bool,
    /// True if this node's state of it is damaged on the disk.
    pub is_damaged: bool,
    /// This node's log.
    pub log: LogSummary,
    /// Leader that this node knew last.
    pub leader: Option<NodeId>,
    /// Time since the last contact with a leader; `None` if there was none since the start.
    pub leaderless_for: Option<Duration>,
    /// The other members that can be reached.
    pub others: Vec<MemberFacts>,
}

/// Another member that can be reached.
#[derive(Clone, Debug)]
pub(super) struct MemberFacts {
    /// The node.
    pub node: NodeId,
    /// Its log; `None` if it doesn't tell.
    pub log: Option<MemberLog>,
}

/// Log of another member.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemberLog {
    /// True if the node takes itself for a member.
    pub is_member: bool,
    /// Last entry.
    pub last: Option<LogPosition>,
    /// Leader that the node follows now, with a majority.
    pub leader: Option<NodeId>,
}

impl ClusterFacts {
    /// Name of a node for people.
    pub(super) fn name(&self, node: NodeId) -> String {
        let known = self.names.get(&node);
        known.map_or_else(|| format!("node {node}"), Clone::clone)
    }

    /// Names of nodes, in the order of their numbers.
    pub(super) fn names<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeId>) -> Vec<String> {
        nodes.into_iter().map(|node| self.name(*node)).collect()
    }

    /// Returns whether the metadata has a majority even without the nodes of this region.
    pub(super) fn has_metadata_elsewhere(&self) -> bool {
        let elsewhere = self.alive.difference(&self.region_nodes).copied();
        has_majority(&self.metadata_voters, &elsewhere.collect())
    }

    /// The other nodes of this region that can be reached.
    pub(super) fn other_survivors(&self) -> BTreeSet<NodeId> {
        let others = self.region_nodes.intersection(&self.alive).copied();
        others.filter(|node| *node != self.node).collect()
    }
}

impl GroupFacts {
    /// Name of the group for people.
    pub(super) fn name(&self) -> String {
        if self.group == GroupId::META {
            return "metadata".to_owned();
        }
        self.group.to_string()
    }

    /// Voters that can't be reached.
    pub(super) fn lost(&self, alive: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let voters = self.log.voters().into_iter();
        voters.filter(|node| !alive.contains(node)).collect()
    }

    /// Returns whether enough voters can be reached to elect a leader.
    pub(super) fn has_majority(&self, alive: &BTreeSet<NodeId>) -> bool {
        has_majority(&self.log.voter_sets, alive)
    }
}

/// Returns whether most nodes of each set of voters are alive.
fn has_majority(voter_sets: &[BTreeSet<NodeId>], alive: &BTreeSet<NodeId>) -> bool {
    let is_majority = |set: &BTreeSet<NodeId>| 2 * set.intersection(alive).count() > set.len();
    !voter_sets.is_empty() && voter_sets.iter().all(is_majority)
}
