//! Whether a node can be taken out of its region: what the region survives without it, and what would
//! keep its shards from moving.
//!
//! What will be is found by planning the placement until it stands still, as the keeper will do.

use std::collections::BTreeSet;

use super::placement::{
    Candidate, CurrentPlacement, MetaCandidate, ShardPlan, plan_meta, plan_shards,
};
use crate::meta::{NodeInfo, NodeState, Topology};
use crate::raft::NodeId;

/// Steps of a plan that are looked ahead at most. Each moves a shard at least.
const MAX_STEPS: usize = 256;

/// What a region survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survival {
    /// Nodes that may be lost while every shard goes on: of the shard that bears least.
    pub losses: usize,
    /// Nodes that hold a shard: of the shard that has fewest.
    pub copies: usize,
    /// Voters of the metadata, in all regions.
    pub metadata_voters: usize,
}

impl Survival {
    /// Whether less is survived than with `other`. The metadata gets fewer voters than three only
    /// where the shards of a region lose a copy as well.
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

/// What a region survives now, and without a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// With it.
    pub now: Survival,
    /// Without it.
    pub without: Survival,
}

/// Why a node can't be decommissioned now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Its region has no other node that takes shards.
    OnlyNode,
    /// A shard has lost its majority, and can't change its members.
    NoMajority {
        /// The shard.
        shard: u16,
        /// Its voters that aren't heard of.
        silent: Vec<NodeId>,
    },
    /// Shards would depend on nodes that aren't heard of.
    Silent(Vec<NodeId>),
}

impl Obstacle {
    /// Says it, with what to do.
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

/// What becomes of a region without one of its nodes. `voters` are those of the metadata.
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
    let blocking = blocking(&current, &planned, &is_alive);
    if !blocking.is_empty() {
        return Err(Obstacle::Silent(blocking.into_iter().collect()));
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

/// The placements when no step changes anything any more.
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

/// Nodes that aren't heard of, and that a shard would get as a new member or without which it would
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
            let holds = |it: &CurrentPlacement| it.voters.contains(node);
            !before.as_ref().is_some_and(holds)
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

/// How many voters the metadata has without a node.
fn metadata_voters(
    topology: &Topology,
    without: NodeId,
    voters: &BTreeSet<NodeId>,
    is_alive: impl Fn(NodeId) -> bool,
) -> usize {
    let there = topology.nodes().iter();
    let there = there.filter(|node| node.state != NodeState::Removed);
    let candidates: Vec<MetaCandidate> = there
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
