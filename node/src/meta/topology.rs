//! Topology: regions, nodes, and the nodes of each shard, as readers see them.
//!
//! Invariant: a topology is immutable. A change creates a new one, so a reader sees regions, nodes
//! and placements of one moment.

use std::collections::BTreeMap;

use cloudkv_common::hosts::host_of;
use cloudkv_proto::v1 as pb;

use crate::raft::NodeId;
use crate::types::Nanos;

/// Participation of a node in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// The node takes shards.
    Active,
    /// The node is being decommissioned: its shards are moved away.
    Decommissioning,
    /// The node was removed for good.
    Removed,
}

impl NodeState {
    /// Name of the state in the status and in answers of the admin port.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Decommissioning => "decommissioning",
            Self::Removed => "removed",
        }
    }

    /// Converts the state from rows and commands; `None` if it is unspecified.
    pub fn from_pb(state: pb::NodeState) -> Option<Self> {
        match state {
            pb::NodeState::Unspecified => None,
            pb::NodeState::Active => Some(Self::Active),
            pb::NodeState::Leaving => Some(Self::Decommissioning),
            pb::NodeState::Removed => Some(Self::Removed),
        }
    }

    /// Converts the state for rows and commands.
    pub fn to_pb(self) -> pb::NodeState {
        match self {
            Self::Active => pb::NodeState::Active,
            Self::Decommissioning => pb::NodeState::Leaving,
            Self::Removed => pb::NodeState::Removed,
        }
    }
}

/// Node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// ID of the node.
    pub id: NodeId,
    /// Number of its region.
    pub region: u32,
    /// Address of its rpc port for nodes and routers.
    pub rpc: String,
    /// Address of its public port.
    pub http: String,
    /// Participation in the cluster.
    pub state: NodeState,
    /// Highest feature level that its software supports.
    pub level: u32,
    /// Version of its software.
    pub version: String,
    /// Time of its first registration.
    pub joined_at: Nanos,
    /// Display name; if empty, the host of `rpc` is used.
    pub name: String,
    /// Time of its removal; 0 if it isn't removed.
    pub removed_at: Nanos,
}

impl NodeInfo {
    /// Display name: the node's own name, or the host of `rpc`.
    pub fn display_name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        host_of(&self.rpc).unwrap_or(&self.rpc)
    }

    /// Reads a node from its row; `None` if its state is unspecified.
    pub(super) fn from_row(id: NodeId, row: pb::NodeRow) -> Option<Self> {
        Some(Self {
            id,
            region: row.region,
            state: NodeState::from_pb(row.state())?,
            rpc: row.rpc,
            http: row.http,
            level: row.level,
            version: row.version,
            joined_at: row.joined_at,
            name: row.name,
            removed_at: row.removed_at,
        })
    }

    pub(super) fn to_row(&self) -> pb::NodeRow {
        pb::NodeRow {
            region: self.region,
            rpc: self.rpc.clone(),
            http: self.http.clone(),
            state: self.state.to_pb().into(),
            level: self.level,
            version: self.version.clone(),
            joined_at: self.joined_at,
            name: self.name.clone(),
            removed_at: self.removed_at,
        }
    }
}

/// Placement of a shard on nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Epoch, which starts at 1 and increases with every change.
    pub epoch: u64,
    /// Nodes that vote; the first is the preferred leader.
    pub voters: Vec<NodeId>,
    /// Nodes that only follow.
    pub learners: Vec<NodeId>,
}

impl Placement {
    /// Node that should lead.
    pub fn preferred_leader(&self) -> Option<NodeId> {
        self.voters.first().copied()
    }

    /// Returns whether a node is a voter or learner of the shard.
    pub fn has_member(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    pub(super) fn from_row(row: pb::Placement) -> Self {
        Self {
            epoch: row.epoch,
            voters: row.voters.into_iter().map(NodeId::from).collect(),
            learners: row.learners.into_iter().map(NodeId::from).collect(),
        }
    }

    pub(super) fn to_row(&self) -> pb::Placement {
        pb::Placement {
            epoch: self.epoch,
            voters: self.voters.iter().copied().map(u64::from).collect(),
            learners: self.learners.iter().copied().map(u64::from).collect(),
        }
    }
}

/// Region of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Name of the region.
    pub name: String,
    /// Incarnation: identifies the history of its shards.
    pub incarnation: u64,
    /// True while its shards are seeded from other regions, and don't serve yet.
    pub is_joining: bool,
    /// Node that bootstraps its shards, if one was named.
    pub bootstrap_node: Option<NodeId>,
    /// True while the region is being removed, which may be because it is lost.
    pub is_removing: bool,
}

impl RegionInfo {
    fn from_row(row: &pb::Region) -> Self {
        Self {
            name: row.name.clone(),
            incarnation: row.incarnation,
            is_joining: row.joining,
            bootstrap_node: NodeId::nonzero(row.bootstrap_node),
            is_removing: row.leaving,
        }
    }
}

/// Regions, nodes and placements at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    regions: BTreeMap<u32, RegionInfo>,
    /// Names of the regions that were removed last.
    removed_regions: BTreeMap<u32, String>,
    regions_epoch: u64,
    removal_round: u64,
    reconciled_regions: Vec<u32>,
    nodes: Vec<NodeInfo>,
    placements: BTreeMap<(u32, u16), Placement>,
}

impl Topology {
    /// Nodes, including removed ones, in the order of their IDs.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// Node with an ID, which may be removed.
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.node_index(id)
            .ok()
            .and_then(|index| self.nodes.get(index))
    }

    /// Returns this topology without the nodes that joined after a time, and without the regions
    /// that these started; node `me` stays, and so does its region.
    pub fn without_joined_after(&self, time: Nanos, me: NodeId) -> Self {
        let mut earlier = self.clone();
        let is_earlier = |node: &NodeInfo| node.id == me || node.joined_at <= time;
        earlier.nodes.retain(is_earlier);
        let here = self.node(me).map(|me| me.region);
        // A region is added before its first node.
        let is_later = |node| self.node(node).is_none_or(|node| !is_earlier(node));
        earlier.regions.retain(|number, region| {
            here == Some(*number) || !region.bootstrap_node.is_some_and(is_later)
        });
        earlier
    }

    /// Returns whether a node is known, and of a region.
    pub fn is_in_region(&self, id: NodeId, region: u32) -> bool {
        self.node(id).is_some_and(|node| node.region == region)
    }

    /// Name that tells a node from the others: its display name, or its rpc address if a node that
    /// isn't removed has the same one, as nodes on one machine do.
    pub fn unique_name<'a>(&self, node: &'a NodeInfo) -> &'a str {
        let name = node.display_name();
        let has_this_name = |other: &NodeInfo| {
            other.id != node.id && other.state != NodeState::Removed && other.display_name() == name
        };
        if self.nodes.iter().any(has_this_name) {
            return &node.rpc;
        }
        name
    }

    /// Returns whether a node is removed, or its region is being removed, so that anything that it
    /// still acknowledges would be lost.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|node| {
            let region = self.region(node.region);
            node.state == NodeState::Removed || region.is_some_and(|region| region.is_removing)
        })
    }

    /// Lists all nodes but removed ones, with their addresses.
    pub fn members(&self) -> Vec<pb::Member> {
        let is_member = |node: &&NodeInfo| node.state != NodeState::Removed;
        let member = |node: &NodeInfo| pb::Member {
            id: u64::from(node.id),
            rpc: node.rpc.clone(),
        };
        self.nodes.iter().filter(is_member).map(member).collect()
    }

    /// Nodes of a region, without removed ones, in the order of their IDs.
    pub fn nodes_of(&self, region: u32) -> impl Iterator<Item = &NodeInfo> {
        self.nodes
            .iter()
            .filter(move |node| node.region == region && node.state != NodeState::Removed)
    }

    /// Placement of a shard of a region; `None` if it was never placed.
    pub fn placement(&self, region: u32, shard: u16) -> Option<&Placement> {
        self.placements.get(&(region, shard))
    }

    /// Placed shards of a region, in the order of their numbers.
    pub fn placements_of(&self, region: u32) -> impl Iterator<Item = (u16, &Placement)> {
        self.placements
            .range((region, 0)..=(region, u16::MAX))
            .map(|((_, shard), placement)| (*shard, placement))
    }

    /// Shards of its region that a node has, as a voter or a learner.
    pub fn shards_of_node(&self, id: NodeId) -> Vec<u16> {
        let Some(node) = self.node(id) else {
            return Vec::new();
        };
        self.placements_of(node.region)
            .filter(|(_, placement)| placement.has_member(id))
            .map(|(shard, _)| shard)
            .collect()
    }

    /// Numbers and names of the regions.
    pub fn region_names(&self) -> impl Iterator<Item = (u32, &str)> {
        self.regions
            .iter()
            .map(|(number, region)| (*number, region.name.as_str()))
    }

    /// Region with a number.
    pub fn region(&self, number: u32) -> Option<&RegionInfo> {
        self.regions.get(&number)
    }

    /// All regions, by number.
    pub fn all_regions(&self) -> &BTreeMap<u32, RegionInfo> {
        &self.regions
    }

    /// Epoch of the regions, which increases with every change of them.
    pub fn regions_epoch(&self) -> u64 {
        self.regions_epoch
    }

    /// Round of removals, which increases with every region that is to be removed.
    pub fn removal_round(&self) -> u64 {
        self.removal_round
    }

    /// Regions that have reconciled the regions that are being removed, in this round.
    pub fn reconciled_regions(&self) -> &[u32] {
        &self.reconciled_regions
    }

    /// Number of the region with a name.
    pub fn region_number(&self, name: &str) -> Option<u32> {
        self.region_names()
            .find(|(_, other)| *other == name)
            .map(|(number, _)| number)
    }

    /// Name of the region with a number.
    pub fn region_name(&self, number: u32) -> Option<&str> {
        self.region(number).map(|region| region.name.as_str())
    }

    /// Name of the region with a number, which may be one of those that were removed last.
    pub fn known_region_name(&self, number: u32) -> Option<&str> {
        let removed = || self.removed_regions.get(&number).map(String::as_str);
        self.region_name(number).or_else(removed)
    }

    fn node_index(&self, id: NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by_key(&id, |node| node.id)
    }

    pub(crate) fn put_node(&mut self, node: NodeInfo) {
        match self.node_index(node.id) {
            Ok(index) => self.nodes[index] = node,
            Err(index) => self.nodes.insert(index, node),
        }
    }

    pub(crate) fn put_placement(&mut self, region: u32, shard: u16, placement: Placement) {
        self.placements.insert((region, shard), placement);
    }

    pub(super) fn set_regions(&mut self, header: &pb::MetaHeader) {
        let regions = header.regions.iter();
        self.regions = regions
            .map(|region| (region.number, RegionInfo::from_row(region)))
            .collect();
        let removed = header.removed_regions.iter();
        self.removed_regions = removed
            .map(|region| (region.number, region.name.clone()))
            .collect();
        self.regions_epoch = header.regions_epoch;
        self.removal_round = header.removal_round;
        self.reconciled_regions.clone_from(&header.reconciled_in);
    }
}
