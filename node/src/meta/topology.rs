//! Where everything is: regions, nodes, and the nodes of each shard, as readers see it.
//!
//! Invariant: a topology never changes. A change makes a new one, so whoever holds one sees
//! regions, nodes and placements of one moment.

use std::collections::BTreeMap;

use cloudkv_proto::tls::host_of;
use cloudkv_proto::v1 as pb;

use crate::raft::NodeId;
use crate::types::Nanos;

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It takes shards.
    Active,
    /// Its shards are being moved away.
    Leaving,
    /// It has left for ever.
    Removed,
}

impl NodeState {
    /// As rows and commands name it; `None` for none.
    pub fn from_pb(state: pb::NodeState) -> Option<Self> {
        match state {
            pb::NodeState::Unspecified => None,
            pb::NodeState::Active => Some(Self::Active),
            pb::NodeState::Leaving => Some(Self::Leaving),
            pb::NodeState::Removed => Some(Self::Removed),
        }
    }

    /// As rows and commands name it.
    pub fn to_pb(self) -> pb::NodeState {
        match self {
            Self::Active => pb::NodeState::Active,
            Self::Leaving => pb::NodeState::Leaving,
            Self::Removed => pb::NodeState::Removed,
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its number.
    pub id: NodeId,
    /// The number of its region.
    pub region: u32,
    /// Where nodes and routers reach its gRPC.
    pub rpc: String,
    /// Where its public API is reached.
    pub http: String,
    /// Whether it takes part.
    pub state: NodeState,
    /// The highest feature level that its software supports.
    pub level: u32,
    /// Its software's version.
    pub version: String,
    /// When it became known.
    pub joined_at: Nanos,
    /// What people call it; empty: the host of `rpc`.
    pub name: String,
    /// When it was removed; 0: it wasn't, or that isn't known.
    pub removed_at: Nanos,
}

impl NodeInfo {
    /// What people call it: its own name, or the host of its `rpc`.
    pub fn display_name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        host_of(&self.rpc).unwrap_or(&self.rpc)
    }

    /// The node of a row; `None` if its state is unknown.
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

/// The nodes of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// One more with every change, from 1.
    pub epoch: u64,
    /// The nodes that vote; the first is the preferred leader.
    pub voters: Vec<NodeId>,
    /// The nodes that only learn.
    pub learners: Vec<NodeId>,
}

impl Placement {
    /// The node that should lead.
    pub fn preferred_leader(&self) -> Option<NodeId> {
        self.voters.first().copied()
    }

    /// Whether a node holds the shard, as a voter or a learner.
    pub fn names(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    pub(super) fn from_row(row: pb::Placement) -> Self {
        Self {
            epoch: row.epoch,
            voters: row.voters,
            learners: row.learners,
        }
    }

    pub(super) fn to_row(&self) -> pb::Placement {
        pb::Placement {
            epoch: self.epoch,
            voters: self.voters.clone(),
            learners: self.learners.clone(),
        }
    }
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its name.
    pub name: String,
    /// Names the histories of its shards.
    pub incarnation: u64,
    /// Its shards take over what other regions have, and serve nobody yet.
    pub joining: bool,
    /// The node that founds its shards; 0: the one that founded the cluster.
    pub founder: NodeId,
    /// It is lost, or leaves: it is being removed.
    pub leaving: bool,
}

impl RegionInfo {
    fn from_row(row: &pb::Region) -> Self {
        Self {
            name: row.name.clone(),
            incarnation: row.incarnation,
            joining: row.joining,
            founder: row.founder,
            leaving: row.leaving,
        }
    }
}

/// Regions, nodes and placements at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    regions: BTreeMap<u32, RegionInfo>,
    regions_epoch: u64,
    removal_round: u64,
    levelled_in: Vec<u32>,
    nodes: Vec<NodeInfo>,
    placements: BTreeMap<(u32, u16), Placement>,
}

impl Topology {
    /// The nodes, removed ones included, in the order of their numbers.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// A node, also a removed one.
    pub fn node(&self, id: NodeId) -> Option<&NodeInfo> {
        self.position(id).ok().and_then(|at| self.nodes.get(at))
    }

    /// Whether a node has no place any more: it was removed, or its region is being removed, so that
    /// what it would still acknowledge would be lost.
    pub fn is_gone(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|node| {
            let region = self.region(node.region);
            node.state == NodeState::Removed || region.is_some_and(|region| region.leaving)
        })
    }

    /// All nodes but removed ones, and where each is.
    pub fn members(&self) -> Vec<pb::Member> {
        let there = |node: &&NodeInfo| node.state != NodeState::Removed;
        let member = |node: &NodeInfo| pb::Member {
            id: node.id,
            rpc: node.rpc.clone(),
        };
        self.nodes.iter().filter(there).map(member).collect()
    }

    /// The nodes of a region, without removed ones, in the order of their numbers.
    pub fn nodes_of(&self, region: u32) -> impl Iterator<Item = &NodeInfo> {
        self.nodes
            .iter()
            .filter(move |node| node.region == region && node.state != NodeState::Removed)
    }

    /// The nodes of a shard of a region; `None` if it was never placed.
    pub fn placement(&self, region: u32, shard: u16) -> Option<&Placement> {
        self.placements.get(&(region, shard))
    }

    /// The placed shards of a region, in the order of their numbers.
    pub fn placements_of(&self, region: u32) -> impl Iterator<Item = (u16, &Placement)> {
        self.placements
            .range((region, 0)..=(region, u16::MAX))
            .map(|((_, shard), placement)| (*shard, placement))
    }

    /// The shards of its region that a node holds, as a voter or a learner.
    pub fn shards_of_node(&self, id: NodeId) -> Vec<u16> {
        let Some(node) = self.node(id) else {
            return Vec::new();
        };
        self.placements_of(node.region)
            .filter(|(_, placement)| placement.names(id))
            .map(|(shard, _)| shard)
            .collect()
    }

    /// The regions: number and name.
    pub fn regions(&self) -> impl Iterator<Item = (u32, &str)> {
        self.regions
            .iter()
            .map(|(number, region)| (*number, region.name.as_str()))
    }

    /// A region.
    pub fn region(&self, number: u32) -> Option<&RegionInfo> {
        self.regions.get(&number)
    }

    /// All regions, by number.
    pub fn all_regions(&self) -> &BTreeMap<u32, RegionInfo> {
        &self.regions
    }

    /// One more with every change of the regions.
    pub fn regions_epoch(&self) -> u64 {
        self.regions_epoch
    }

    /// One more with every region that is to leave.
    pub fn removal_round(&self) -> u64 {
        self.removal_round
    }

    /// The regions that have levelled what they have of those that leave, in this round.
    pub fn levelled_in(&self) -> &[u32] {
        &self.levelled_in
    }

    /// The number of a region.
    pub fn region_number(&self, name: &str) -> Option<u32> {
        self.regions()
            .find(|(_, other)| *other == name)
            .map(|(number, _)| number)
    }

    /// The name of a region.
    pub fn region_name(&self, number: u32) -> Option<&str> {
        self.region(number).map(|region| region.name.as_str())
    }

    fn position(&self, id: NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by_key(&id, |node| node.id)
    }

    pub(crate) fn put_node(&mut self, node: NodeInfo) {
        match self.position(node.id) {
            Ok(at) => self.nodes[at] = node,
            Err(at) => self.nodes.insert(at, node),
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
        self.regions_epoch = header.regions_epoch;
        self.removal_round = header.removal_round;
        self.levelled_in.clone_from(&header.levelled_in);
    }
}
