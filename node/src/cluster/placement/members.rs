//! Chooses the voters of the metadata group.
//!
//! Rules, in the order of their weight:
//! 1. one voter for fewer than three active nodes, three for fewer than five, else five; only three
//!    where five can't be spread;
//! 2. while three or more regions have an active node that is alive, no region has half of the
//!    voters, so that the loss of one region leaves a majority;
//! 3. voters are alive;
//! 4. voters stay;
//! 5. new voters come from the regions with the fewest voters.

use std::collections::BTreeMap;

use crate::raft::NodeId;

/// Candidate for the metadata group: any node that was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaCandidate {
    /// ID of the node.
    pub id: NodeId,
    /// Number of its region.
    pub region: u32,
    /// True unless the node is being decommissioned: only such nodes vote.
    pub active: bool,
    /// True if the node has answered recently.
    pub alive: bool,
    /// True if the node votes now.
    pub voter: bool,
}

/// Planned members of the metadata group, each in the order of their IDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaMembers {
    /// Nodes that vote.
    pub voters: Vec<NodeId>,
    /// All other nodes.
    pub learners: Vec<NodeId>,
}

/// Plans the members of the metadata group. Without any active node the voters stay.
pub fn plan_meta(members: &[MetaCandidate]) -> MetaMembers {
    let mut members = members.to_vec();
    members.sort_unstable_by_key(|member| member.id);
    members.dedup_by_key(|member| member.id);
    let active: Vec<_> = members.iter().filter(|member| member.active).collect();
    let voters = if active.is_empty() {
        ids(members.iter().filter(|member| member.voter))
    } else {
        choose(&active)
    };
    let others = members.iter().filter(|member| !voters.contains(&member.id));
    MetaMembers {
        learners: ids(others),
        voters,
    }
}

fn ids<'a>(members: impl Iterator<Item = &'a MetaCandidate>) -> Vec<NodeId> {
    members.map(|member| member.id).collect()
}

/// Counts the nodes of each region.
fn by_region<'a>(members: impl Iterator<Item = &'a &'a MetaCandidate>) -> BTreeMap<u32, usize> {
    let mut regions = BTreeMap::new();
    for member in members {
        *regions.entry(member.region).or_default() += 1;
    }
    regions
}

/// Maximum number of voters in one region that leaves the others a majority.
fn minority(voters: usize) -> usize {
    (voters.saturating_sub(1) / 2).max(1)
}

/// Number of voters. It doesn't depend on which nodes are alive: a failure must not change it.
fn voter_count(active: &[&MetaCandidate]) -> usize {
    let regions = by_region(active.iter());
    let spread: usize = regions.values().map(|nodes| minority(5).min(*nodes)).sum();
    match active.len() {
        0..=2 => 1,
        3..=4 => 3,
        _ if regions.len() >= 3 && spread < 5 => 3,
        _ => 5,
    }
}

/// Takes the best nodes as long as their regions have capacity. The capacities of the regions form
/// a matroid, so this finds the maximum number of alive nodes and, among those, of current voters.
fn choose(active: &[&MetaCandidate]) -> Vec<NodeId> {
    let count = voter_count(active);
    let alive = by_region(active.iter().filter(|member| member.alive));
    let capacity = if alive.len() >= 3 {
        minority(count)
    } else {
        count
    };
    let mut chosen_in: BTreeMap<u32, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let in_region = |member: &MetaCandidate| chosen_in.get(&member.region).copied().unwrap_or(0);
        let best = active
            .iter()
            .filter(|member| !chosen.contains(&member.id) && in_region(member) < capacity)
            .min_by_key(|member| (!member.alive, !member.voter, in_region(member), member.id));
        let Some(best) = best else { break };
        chosen.push(best.id);
        *chosen_in.entry(best.region).or_default() += 1;
    }
    chosen.sort_unstable();
    chosen
}
