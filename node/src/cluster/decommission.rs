//! Assesses whether a node can be decommissioned: the fault tolerance of its region without it, and
//! obstacles to moving its shards.
//!
//! The result is found by planning placements until they no longer change, as the placement
//! controller will do.

use std::collections::BTreeSet;

use super::placement::{
    CurrentPlacement, MetadataCandidate, ShardCandidate, ShardPlan, plan_metadata, plan_shards,
};
use crate::meta::{NodeInfo, NodeState, Topology};
use crate::raft::NodeId;

/// Maximum number of planned steps. Each moves at least one shard.
const MAX_PLAN_STEPS: usize = 256;

/// Fault tolerance of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FaultTolerance {
    /// Number of nodes that may fail while every shard stays available: that of the least tolerant
    /// shard.
    pub node_failures: usize,
    /// Number of replicas of the shard that has fewest.
    pub replicas: usize,
    /// Number of the metadata's voters, in all regions.
    pub metadata_voters: usize,
}

impl FaultTolerance {
    /// Returns whether the tolerance is lower than `other`. The metadata gets fewer voters than
    /// three only where a region's shards lose a replica as well.
    pub(crate) fn is_less_than(&self, other: &Self) -> bool {
        self.node_failures < other.node_failures || self.replicas < other.replicas
    }
}

impl std::fmt::Display for FaultTolerance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.node_failures, self.replicas) {
            (0, 0 | 1) => "the loss of no node: a shard is on one node alone",
            (0, 2) => "the loss of no node: a shard has one voter, which another node follows",
            (0, _) => "the loss of no node while one of a shard's voters is unreachable",
            (1, _) => "the loss of any one node",
            _ => "the loss of more than one node",
        })
    }
}

/// Fault tolerance of a region with and without a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecommissionOutlook {
    /// With the node.
    pub now: FaultTolerance,
    /// Without the node.
    pub without_node: FaultTolerance,
}

/// Reason why a node can't be decommissioned now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecommissionObstacle {
    /// The region has no other node that takes shards.
    OnlyNode,
    /// A shard has lost its majority, and can't change its members.
    NoMajority {
        /// Number of the shard.
        shard: u16,
        /// Unreachable voters of the shard.
        unreachable: Vec<NodeId>,
    },
    /// Shards would depend on unreachable nodes.
    Unreachable(Vec<NodeId>),
}

impl DecommissionObstacle {
    /// Describes the obstacle and the remedy.
    pub(crate) fn describe(
        &self,
        node: &str,
        region: &str,
        name: impl Fn(NodeId) -> String,
    ) -> String {
        let names = |nodes: &[NodeId]| {
            let names: Vec<String> = nodes.iter().map(|node| name(*node)).collect();
            names.join(", ")
        };
        match self {
            Self::OnlyNode => format!(
                "node {node} is the only one that takes shards in region {region}: start another \
                 one with --join first; or stop it, and remove the region with \
                 `cloudkv-node admin remove-region {region}` through a node of another one"
            ),
            Self::NoMajority {
                shard,
                unreachable: silent,
            } => format!(
                "shard-{shard} of region {region} has no majority, so it can't move away from node \
                 {node}: bring back {}",
                names(silent)
            ),
            Self::Unreachable(silent) => format!(
                "shards of region {region} would depend on {}, which is unreachable: bring it \
                 back, or replace it, first",
                names(silent)
            ),
        }
    }
}

/// Assesses a region without one of its nodes. `voters` are those of the metadata.
pub(crate) fn assess_decommission(
    topology: &Topology,
    shards: u16,
    node: &NodeInfo,
    voters: &BTreeSet<NodeId>,
    is_alive: impl Fn(NodeId) -> bool,
) -> Result<DecommissionOutlook, DecommissionObstacle> {
    let current: Vec<Option<CurrentPlacement>> = (0..shards)
        .map(|shard| {
            let placement = topology.placement(node.region, shard)?;
            Some(CurrentPlacement {
                voters: placement.voters.clone(),
                learners: placement.learners.clone(),
            })
        })
        .collect();
    let candidates: Vec<ShardCandidate> = topology
        .nodes_of(node.region)
        .map(|other| ShardCandidate {
            id: other.id,
            is_active: other.id != node.id && other.state == NodeState::Active,
        })
        .collect();
    if !candidates.iter().any(|other| other.is_active) {
        return Err(DecommissionObstacle::OnlyNode);
    }
    for (shard, placement) in (0..).zip(&current) {
        let Some(placement) = placement else { continue };
        if alive_voters(placement, &is_alive) <= placement.voters.len() / 2 {
            let silent = unreachable_nodes(&placement.voters, &is_alive);
            return Err(DecommissionObstacle::NoMajority {
                shard,
                unreachable: silent,
            });
        }
    }
    let planned = final_placements(&candidates, shards, current.clone());
    let unreachable = blocking_nodes(&current, &planned, &is_alive);
    if !unreachable.is_empty() {
        return Err(DecommissionObstacle::Unreachable(
            unreachable.into_iter().collect(),
        ));
    }
    let metadata = remaining_metadata_voters(topology, node.id, voters, &is_alive);
    Ok(DecommissionOutlook {
        now: fault_tolerance(&current, voters.len(), &is_alive),
        without_node: fault_tolerance(&planned, metadata, &is_alive),
    })
}

fn alive_voters(placement: &CurrentPlacement, is_alive: impl Fn(NodeId) -> bool) -> usize {
    let voters = placement.voters.iter();
    voters.filter(|voter| is_alive(**voter)).count()
}

fn unreachable_nodes(nodes: &[NodeId], is_alive: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let nodes = nodes.iter().copied();
    nodes.filter(|node| !is_alive(*node)).collect()
}

/// Plans steps until none changes anything, and returns the resulting placements.
fn final_placements(
    candidates: &[ShardCandidate],
    shards: u16,
    mut placements: Vec<Option<CurrentPlacement>>,
) -> Vec<Option<CurrentPlacement>> {
    for _ in 0..MAX_PLAN_STEPS {
        let plans = plan_shards(candidates, shards, &placements);
        if plans.is_empty() {
            break;
        }
        for ShardPlan {
            shard,
            voters,
            learners,
        } in plans
        {
            if let Some(placement) = placements.get_mut(usize::from(shard)) {
                *placement = Some(CurrentPlacement { voters, learners });
            }
        }
    }
    placements
}

/// Returns the unreachable nodes that a shard would get as a new member, or without which it would
/// have no majority.
fn blocking_nodes(
    current: &[Option<CurrentPlacement>],
    planned: &[Option<CurrentPlacement>],
    is_alive: impl Fn(NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let mut blocking = BTreeSet::new();
    for (before, after) in current.iter().zip(planned) {
        let Some(after) = after else { continue };
        let has_majority = alive_voters(after, &is_alive) > after.voters.len() / 2;
        let is_new = |node: &NodeId| {
            let has_voter = |it: &CurrentPlacement| it.voters.contains(node);
            !before.as_ref().is_some_and(has_voter)
        };
        let silent = unreachable_nodes(&after.voters, &is_alive).into_iter();
        blocking.extend(silent.filter(|node| !has_majority || is_new(node)));
    }
    blocking
}

fn fault_tolerance(
    placements: &[Option<CurrentPlacement>],
    metadata_voters: usize,
    is_alive: impl Fn(NodeId) -> bool,
) -> FaultTolerance {
    let placed = || placements.iter().flatten();
    let losses =
        placed().map(|it| alive_voters(it, &is_alive).saturating_sub(it.voters.len() / 2 + 1));
    let copies = placed().map(|it| it.voters.len() + it.learners.len());
    FaultTolerance {
        node_failures: losses.min().unwrap_or(0),
        replicas: copies.min().unwrap_or(0),
        metadata_voters,
    }
}

/// Returns the number of the metadata's voters without a node.
fn remaining_metadata_voters(
    topology: &Topology,
    without: NodeId,
    voters: &BTreeSet<NodeId>,
    is_alive: impl Fn(NodeId) -> bool,
) -> usize {
    let remaining = topology.nodes().iter();
    let remaining = remaining.filter(|node| node.state != NodeState::Removed);
    let candidates: Vec<MetadataCandidate> = remaining
        .map(|node| MetadataCandidate {
            id: node.id,
            region: node.region,
            is_active: node.id != without && node.state == NodeState::Active,
            is_alive: is_alive(node.id),
            is_voter: voters.contains(&node.id),
        })
        .collect();
    plan_metadata(&candidates).voters.len()
}
