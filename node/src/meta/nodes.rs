//! Commands on nodes and on the placement of shards.
//!
//! Pure functions of topology and command compute the result; the methods write it.

use std::io;

use cloudkv_proto::v1 as pb;

use super::feature_level::unsupported_item;
use super::node_refusal::NodeRefusal;
use super::state::MetaState;
use super::topology::{NodeInfo, NodeState, Placement, Topology};
use crate::raft::NodeId;
use crate::store::RowBatch;
use crate::types::Nanos;

/// Maximum length of an address, version or name, in bytes.
const MAX_TEXT_BYTES: usize = 255;
/// Result of a command on nodes.
pub(super) type NodeResponse = Result<(), NodeRefusal>;

impl MetaState {
    pub(super) fn register_node(
        &mut self,
        time: Nanos,
        register: &pb::RegisterNode,
        batch: &mut RowBatch,
    ) -> io::Result<NodeResponse> {
        let node = registered_node(&self.catalog.topology(), time, register);
        self.write_node(node, batch)
    }

    pub(super) fn set_node_state(
        &mut self,
        time: Nanos,
        set: pb::SetNodeState,
        batch: &mut RowBatch,
    ) -> io::Result<NodeResponse> {
        let parse =
            |state| pb::NodeState::try_from(state).map_err(|_| unsupported_item("a node's state"));
        let (state, expected) = (parse(set.state)?, parse(set.expected)?);
        let node = node_with_state(&self.catalog.topology(), set.node, state, expected);
        let node = node.map(|node| with_removal_time(node, time));
        self.write_node(node, batch)
    }

    pub(super) fn set_placement(
        &mut self,
        set: &pb::SetPlacement,
        batch: &mut RowBatch,
    ) -> io::Result<NodeResponse> {
        match next_placement(&self.catalog.topology(), self.header.shards, set) {
            Ok((shard, placement)) => {
                self.put_placement(set.region, shard, placement, batch)?;
                Ok(Ok(()))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Writes a node unless it is unchanged: nodes register with every start.
    fn write_node(
        &mut self,
        node: Result<NodeInfo, NodeRefusal>,
        batch: &mut RowBatch,
    ) -> io::Result<NodeResponse> {
        match node {
            Ok(node) if self.catalog.topology().node(node.id) == Some(&node) => Ok(Ok(())),
            Ok(node) => self.put_node(node, batch).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }
}

/// Adds the removal time to a node that was just removed; one that it has already stays.
pub(super) fn with_removal_time(node: NodeInfo, time: Nanos) -> NodeInfo {
    if node.state == NodeState::Removed && node.removed_at == 0 {
        NodeInfo {
            removed_at: time,
            ..node
        }
    } else {
        node
    }
}

/// Returns the node after its registration. Its region, state and joining time are kept.
fn registered_node(
    topology: &Topology,
    time: Nanos,
    register: &pb::RegisterNode,
) -> Result<NodeInfo, NodeRefusal> {
    let id = NodeId::nonzero(register.node).ok_or(NodeRefusal::ZeroNodeId)?;
    let known = topology.node(id);
    if known.is_some_and(|known| known.state == NodeState::Removed) {
        return Err(NodeRefusal::NodeRemoved { node: id });
    }
    let region = topology.region_number(&register.region);
    let region = region.ok_or(NodeRefusal::UnknownRegion)?;
    if known.is_some_and(|known| known.region != region) {
        return Err(NodeRefusal::WrongRegion { node: id });
    }
    check_text_lengths(&register.rpc, &register.http, &register.version)?;
    if let Some(other) = node_at_address(topology, &register.rpc).filter(|other| *other != id) {
        return Err(NodeRefusal::AddressTaken { node: other });
    }
    let name = if register.name.len() <= MAX_TEXT_BYTES {
        register.name.clone()
    } else {
        known.map_or_else(String::new, |known| known.name.clone())
    };
    Ok(NodeInfo {
        id,
        region,
        rpc: register.rpc.clone(),
        http: register.http.clone(),
        state: known.map_or(NodeState::Active, |known| known.state),
        level: register.level,
        version: register.version.clone(),
        joined_at: known.map_or(time, |known| known.joined_at),
        name,
        removed_at: 0,
    })
}

pub(super) fn check_text_lengths(rpc: &str, http: &str, version: &str) -> NodeResponse {
    let limit = MAX_TEXT_BYTES as u64;
    if [rpc, http]
        .iter()
        .any(|address| address.is_empty() || address.len() > MAX_TEXT_BYTES)
    {
        return Err(NodeRefusal::InvalidAddress { limit });
    }
    if version.len() > MAX_TEXT_BYTES {
        return Err(NodeRefusal::VersionTooLong { limit });
    }
    Ok(())
}

/// Finds the node that has an rpc address and isn't removed.
fn node_at_address(topology: &Topology, rpc: &str) -> Option<NodeId> {
    let mut nodes = topology.nodes().iter();
    let holder = nodes.find(|node| node.state != NodeState::Removed && node.rpc == rpc);
    holder.map(|node| node.id)
}

/// Returns the node in its new state, if it is in the expected one, where one is given. A removed
/// node stays removed.
fn node_with_state(
    topology: &Topology,
    number: u64,
    state: pb::NodeState,
    expected: pb::NodeState,
) -> Result<NodeInfo, NodeRefusal> {
    let id = NodeId::nonzero(number).ok_or(NodeRefusal::ZeroNodeId)?;
    let state = NodeState::from_pb(state).ok_or(NodeRefusal::MissingState)?;
    let node = topology
        .node(id)
        .ok_or(NodeRefusal::UnknownNode { node: id })?
        .clone();
    if node.state == NodeState::Removed && state != NodeState::Removed {
        return Err(NodeRefusal::NodeRemoved { node: id });
    }
    if NodeState::from_pb(expected).is_some_and(|expected| expected != node.state) {
        return Err(NodeRefusal::UnexpectedState { node: id });
    }
    Ok(NodeInfo { state, ..node })
}

/// Returns the shard and its new placement.
fn next_placement(
    topology: &Topology,
    shards: u32,
    set: &pb::SetPlacement,
) -> Result<(u16, Placement), NodeRefusal> {
    if topology.region_name(set.region).is_none() {
        return Err(NodeRefusal::UnknownRegion);
    }
    let shard = Some(set.shard).filter(|shard| *shard < shards);
    let shard =
        shard
            .and_then(|shard| u16::try_from(shard).ok())
            .ok_or(NodeRefusal::UnknownShard {
                shards: u64::from(shards),
            })?;
    let epoch = topology
        .placement(set.region, shard)
        .map_or(0, |placement| placement.epoch);
    if epoch != set.expected_epoch {
        return Err(NodeRefusal::StaleEpoch { epoch });
    }
    if !matches!(set.voters.len(), 1 | 3) {
        return Err(NodeRefusal::InvalidVoterCount {
            voters: set.voters.len() as u64,
        });
    }
    check_members(topology, set)?;
    let placement = Placement {
        epoch: epoch.saturating_add(1),
        voters: set.voters.iter().copied().map(NodeId::from).collect(),
        learners: set.learners.iter().copied().map(NodeId::from).collect(),
    };
    Ok((shard, placement))
}

/// Checks that each member is named once, exists, belongs to the region and isn't removed.
fn check_members(topology: &Topology, set: &pb::SetPlacement) -> NodeResponse {
    let mut seen = std::collections::BTreeSet::new();
    let members = set.voters.iter().chain(&set.learners).copied();
    for id in members.map(NodeId::from) {
        if !seen.insert(id) {
            return Err(NodeRefusal::DuplicateMember { node: id });
        }
        let node = topology.node(id);
        let node = node.ok_or(NodeRefusal::UnknownNode { node: id })?;
        if node.state == NodeState::Removed {
            return Err(NodeRefusal::NodeRemoved { node: id });
        }
        if node.region != set.region {
            return Err(NodeRefusal::WrongRegion { node: id });
        }
    }
    Ok(())
}
