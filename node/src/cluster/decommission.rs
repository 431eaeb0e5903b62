//! Assesses whether a node can be decommissioned: the fault tolerance of its region without it, and
//! obstacles to moving its shards.
//!
//! The result is found by planning placements until they no longer change, as the placement
//! controller will do.

use std::collections::BTreeSet;

use super::placement::{
    Candidate, CurrentPlacement, MetaCandidate, ShardPlan, plan_meta, plan_shards,
};
use crate::meta::{NodeInfo, NodeState, Topology};
use crate::raft::NodeId;

/// Maximum number of planned steps. Each moves at least one shard.
const MAX_STEPS: usize = 256;

/// Fault tolerance of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survival {
    /// Number of nodes that may fail while every shard stays available: that of the least tolerant
    /// shard.
    pub losses: usize,
    /// Number of replicas of the shard that has fewest.
    pub copies: usize,
    /// Number of the metadata's voters, in all regions.
    pub metadata_voters: usize,
}

impl Survival {
    /// Returns whether the tolerance is lower than `other`. The metadata gets fewer voters than
    /// three only where a region's shards lose a replica as well.
    pub fn is_less_than(&self, other: &Self) -> bool {
        self.losses < other.losses || self.copies < other.copies
    }
}

impl std::fmt::Display for Survival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.losses, self.copies) {
            (0, 0 | 1) => "the loss of no node: a shard is on one node alone",
            (0, 2) => "the loss of no node: a shard has one voter, which another node follows",
            (0, _) => "the loss of no node while one of a shard's voters isn't heard of",
            (1, _) => "the loss of any one node",
            _ => "the loss of more than one node",
        })
    }
}

/// Fault tolerance of a region with and without a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// With the node.
    pub now: Survival,
    /// Without the node.
    pub without: Survival,
}

/// Reason why a node can't be decommissioned now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The region has no other node that takes shards.
    OnlyNode,
    /// A shard has lost its majority, and can't change its members.
    NoMajority {
        /// Number of the shard.
        shard: u16,
        /// Unreachable voters of the shard.
        silent: Vec<NodeId>,
    },
    /// Shards would depend on unreachable nodes.
    Silent(Vec<NodeId>),
}

impl Obstacle {
    /// Describes the obstacle and the remedy.
    pub fn describe(&self, node: &str, region: &str, name: impl Fn(NodeId) -> String) -> String {
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
            Self::NoMajority { shard, silent } => format!(
                "shard-{shard} of region {region} has no majority, so it can't move away from node \
                 {node}: bring back {}",
                names(silent)
            ),
            Self::Silent(silent) => format!(
                "shards of region {region} would depend on {}, which can't be heard of: bring it \
                 back, or replace it, first",
                names(silent)
            ),
        }
    }
}

/// Assesses a region without one of its nodes. `voters` are those of the metadata.
pub fn outlook(
    topology: &Topology,
    shards: u16,
    node: &NodeInfo,
    voters: &BTreeSet<NodeId>,
    is_alive: impl Fn(NodeId) -> bool,
) -> Result<Outlook, Obstacle> {
    let current: Vec<Option<CurrentPlacement>> = (0..shards)
        .map(|shard| {
            let placement = topology.placement(node.region, shard)?;
            Some(CurrentPlacement {
                voters: placement.voters.clone(),
                learners: placement.learners.clone(),
            })
        })
        .collect();
    let candidates: Vec<Candidate> = topology
        .nodes_of(node.region)
        .map(|other| Candidate {
            id: other.id,
            active: other.id != node.id && other.state == NodeState::Active,
        })
        .collect();
    if !candidates.iter().any(|other| other.active) {
        return Err(Obstacle::OnlyNode);
    }
    for (shard, placement) in (0..).zip(&current) {
        let Some(placement) = placement else { continue };
        if living(placement, &is_alive) <= placement.voters.len() / 2 {
            let silent = silent(&placement.voters, &is_alive);
            return Err(Obstacle::NoMajority { shard, silent });
        }
    }
    let planned = look_ahead(&candidates, shards, current.clone());
    let unreachable = blocking(&current, &planned, &is_alive);
    if !unreachable.is_empty() {
        return Err(Obstacle::Silent(unreachable.into_iter().collect()));
    }
    let metadata = metadata_voters(topology, node.id, voters, &is_alive);
    Ok(Outlook {
        now: survival(&current, voters.len(), &is_alive),
        without: survival(&planned, metadata, &is_alive),
    })
}

fn living(placement: &CurrentPlacement, is_alive: impl Fn(NodeId) -> bool) -> usize {
    let voters = placement.voters.iter();
    voters.filter(|voter| is_alive(**voter)).count()
}

fn silent(nodes: &[NodeId], is_alive: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let nodes = nodes.iter().copied();
    nodes.filter(|node| !is_alive(*node)).collect()
}

/// Plans steps until none changes anything, and returns the resulting placements.
fn look_ahead(
    candidates: &[Candidate],
    shards: u16,
    mut placements: Vec<Option<CurrentPlacement>>,
) -> Vec<Option<CurrentPlacement>> {
    for _ in 0..MAX_STEPS {
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
fn blocking(
    current: &[Option<CurrentPlacement>],
    planned: &[Option<CurrentPlacement>],
    is_alive: impl Fn(NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let mut blocking = BTreeSet::new();
    for (before, after) in current.iter().zip(planned) {
        let Some(after) = after else { continue };
        let has_majority = living(after, &is_alive) > after.voters.len() / 2;
        let is_new = |node: &NodeId| {
            let has_voter = |it: &CurrentPlacement| it.voters.contains(node);
            !before.as_ref().is_some_and(has_voter)
        };
        let silent = silent(&after.voters, &is_alive).into_iter();
        blocking.extend(silent.filter(|node| !has_majority || is_new(node)));
    }
    blocking
}

fn survival(
    placements: &[Option<CurrentPlacement>],
    metadata_voters: usize,
    is_alive: impl Fn(NodeId) -> bool,
) -> Survival {
    let placed = || placements.iter().flatten();
    let losses = placed().map(|it| living(it, &is_alive).saturating_sub(it.voters.len() / 2 + 1));
    let copies = placed().map(|it| it.voters.len() + it.learners.len());
    Survival {
        losses: losses.min().unwrap_or(0),
        copies: copies.min().unwrap_or(0),
        metadata_voters,
    }
}

/// Returns the number of the metadata's voters without a node.
fn metadata_voters(
    topology: &Topology,
    without: NodeId,
    voters: &BTreeSet<NodeId>,
    is_alive: impl Fn(NodeId) -> bool,
) -> usize {
    let remaining = topology.nodes().iter();
    let remaining = remaining.filter(|node| node.state != NodeState::Removed);
    let candidates: Vec<MetaCandidate> = remaining
        .map(|node| MetaCandidate {
            id: node.id,
            region: node.region,
            active: node.id != without && node.state == NodeState::Active,
            alive: is_alive(node.id),
            voter: voters.contains(&node.id),
        })
        .collect();
    plan_meta(&candidates).voters.len()
}
