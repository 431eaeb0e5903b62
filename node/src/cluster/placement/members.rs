//! Who votes on the metadata.
//!
//! In the order of their weight:
//! 1. one voter below three active nodes, three below five, five from there on; only three where
//!    five can't be spread;
//! 2. while three regions or more have an active node that is alive, no region has half of the
//!    voters, so that losing one leaves a majority;
//! 3. voters are alive;
//! 4. voters stay;
//! 5. new voters come from the regions with the fewest.

use std::collections::BTreeMap;

use crate::raft::NodeId;

/// A node that may be a member of the metadata group: any that was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaCandidate {
    /// The node.
    pub id: NodeId,
    /// The number of its region.
    pub region: u32,
    /// It isn't leaving: only such nodes vote.
    pub active: bool,
    /// It has been heard of lately.
    pub alive: bool,
    /// It votes now.
    pub voter: bool,
}

/// The members that the metadata group should have, each in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaMembers {
    /// The nodes that vote.
    pub voters: Vec<NodeId>,
    /// All others.
    pub learners: Vec<NodeId>,
}

/// Plans the members of the metadata group. Without any active node its voters stay.
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

/// Nodes of each region.
fn by_region<'a>(members: impl Iterator<Item = &'a &'a MetaCandidate>) -> BTreeMap<u32, usize> {
    let mut regions = BTreeMap::new();
    for member in members {
        *regions.entry(member.region).or_default() += 1;
    }
    regions
}

/// How many voters a region may have so that the others are a majority.
fn minority(voters: usize) -> usize {
    (voters.saturating_sub(1) / 2).max(1)
}

/// The number of voters. It doesn't depend on who is alive: a failure must not change it.
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

/// Takes the best ones as long as their regions have room. The room of the regions makes a
/// matroid, so that this finds as many alive ones, and among those as many voters, as there can be.
fn choose(active: &[&MetaCandidate]) -> Vec<NodeId> {
    let count = voter_count(active);
    let alive = by_region(active.iter().filter(|member| member.alive));
    let room = if alive.len() >= 3 {
        minority(count)
    } else {
        count
    };
    let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let in_region = |member: &MetaCandidate| taken.get(&member.region).copied().unwrap_or(0);
        let best = active
            .iter()
            .filter(|member| !chosen.contains(&member.id) && in_region(member) < room)
            .min_by_key(|member| (!member.alive, !member.voter, in_region(member), member.id));
        let Some(best) = best else { break };
        chosen.push(best.id);
        *taken.entry(best.region).or_default() += 1;
    }
    chosen.sort_unstable();
    chosen
}
