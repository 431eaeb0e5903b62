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
pub(crate) struct MetadataCandidate {
    /// ID of the node.
    pub id: NodeId,
    /// Number of its region.
    pub region: u32,
    /// True unless the node is being decommissioned: only such nodes vote.
    pub is_active: bool,
    /// True if the node has answered recently.
    pub is_alive: bool,
    /// True if the node votes now.
    pub is_voter: bool,
}

/// Planned members of the metadata group, each in the order of their IDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MetadataMembers {
    /// Nodes that vote.
    pub voters: Vec<NodeId>,
    /// All other nodes.
    pub learners: Vec<NodeId>,
}

/// Plans the members of the metadata group. Without any active node the voters stay.
pub(crate) fn plan_metadata(members: &[MetadataCandidate]) -> MetadataMembers {
    let mut members = members.to_vec();
    members.sort_unstable_by_key(|member| member.id);
    members.dedup_by_key(|member| member.id);
    let active: Vec<_> = members.iter().filter(|member| member.is_active).collect();
    let voters = if active.is_empty() {
        ids(members.iter().filter(|member| member.is_voter))
    } else {
        choose_voters(&active)
    };
    let others = members.iter().filter(|member| !voters.contains(&member.id));
    MetadataMembers {
        learners: ids(others),
        voters,
    }
}

fn ids<'a>(members: impl Iterator<Item = &'a MetadataCandidate>) -> Vec<NodeId> {
    members.map(|member| member.id).collect()
}

/// Counts the nodes of each region.
fn count_by_region<'a>(
    members: impl Iterator<Item = &'a &'a MetadataCandidate>,
) -> BTreeMap<u32, usize> {
    let mut regions = BTreeMap::new();
    for member in members {
        *regions.entry(member.region).or_default() += 1;
    }
    regions
}

/// Maximum number of voters in one region that leaves the others a majority.
fn max_minority(voters: usize) -> usize {
    (voters.saturating_sub(1) / 2).max(1)
}

/// Number of voters. It doesn't depend on which nodes are alive: a failure must not change it.
fn voter_count(active: &[&MetadataCandidate]) -> usize {
    let regions = count_by_region(active.iter());
    let spread: usize = regions
        .values()
        .map(|nodes| max_minority(5).min(*nodes))
        .sum();
    match active.len() {
        0..=2 => 1,
        3..=4 => 3,
        _ if regions.len() >= 3 && spread < 5 => 3,
        _ => 5,
    }
}

/// Takes the best nodes as long as their regions have capacity. The capacities of the regions form
/// a matroid, so this finds the maximum number of alive nodes and, among those, of current voters.
fn choose_voters(active: &[&MetadataCandidate]) -> Vec<NodeId> {
    let count = voter_count(active);
    let alive = count_by_region(active.iter().filter(|member| member.is_alive));
    let capacity = if alive.len() >= 3 {
        max_minority(count)
    } else {
        count
    };
    let mut chosen_in: BTreeMap<u32, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let in_region =
            |member: &MetadataCandidate| chosen_in.get(&member.region).copied().unwrap_or(0);
        let best = active
            .iter()
            .filter(|member| !chosen.contains(&member.id) && in_region(member) < capacity)
            .min_by_key(|member| {
                (
                    !member.is_alive,
                    !member.is_voter,
                    in_region(member),
                    member.id,
                )
            });
        let Some(best) = best else { break };
        chosen.push(best.id);
        *chosen_in.entry(best.region).or_default() += 1;
    }
    chosen.sort_unstable();
    chosen
}
