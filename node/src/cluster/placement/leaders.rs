//! Which voter of each shard should lead: a leader stays where the numbers allow it.
//!
//! Leaders are handed on along chains: from the node that leads most, over shards that have voters
//! in common, to one that leads at least two less. When no chain is left, no assignment of these
//! voters is more even.

use std::collections::{BTreeMap, VecDeque};

use crate::raft::NodeId;

/// A shard whose leader is chosen.
#[derive(Clone, Debug)]
pub(super) struct Led {
    /// The voters that may lead; at least one.
    pub candidates: Vec<NodeId>,
    /// Who leads now.
    pub current: Option<NodeId>,
}

/// The leader of each shard; `None` only where nobody may lead.
pub(super) fn choose_leaders(shards: &[Led]) -> Vec<Option<NodeId>> {
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for id in shards.iter().flat_map(|shard| &shard.candidates) {
        leads.entry(*id).or_default();
    }
    let mut leaders: Vec<Option<NodeId>> = shards
        .iter()
        .map(|shard| shard.current.filter(|id| shard.candidates.contains(id)))
        .collect();
    for id in leaders.iter().flatten() {
        *leads.entry(*id).or_default() += 1;
    }
    for (leader, shard) in leaders.iter_mut().zip(shards) {
        if leader.is_none() {
            let count = |id: &NodeId| (leads.get(id).copied().unwrap_or(0), *id);
            *leader = shard.candidates.iter().copied().min_by_key(count);
            if let Some(id) = leader {
                *leads.entry(*id).or_default() += 1;
            }
        }
    }
    while let Some((from, to, chain)) = find_chain(shards, &leaders, &leads) {
        for (shard, next) in chain {
            leaders[shard] = Some(next);
        }
        *leads.entry(from).or_default() -= 1;
        *leads.entry(to).or_default() += 1;
    }
    leaders
}

/// Shards, each with the node that it is handed to.
type Chain = Vec<(usize, NodeId)>;

fn find_chain(
    shards: &[Led],
    leaders: &[Option<NodeId>],
    leads: &BTreeMap<NodeId, usize>,
) -> Option<(NodeId, NodeId, Chain)> {
    let mut most: Vec<(NodeId, usize)> = leads.iter().map(|(id, count)| (*id, *count)).collect();
    most.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
    most.into_iter().find_map(|(from, count)| {
        let (to, chain) = chain_from(from, count, shards, leaders, leads)?;
        Some((from, to, chain))
    })
}

/// The shortest chain from a node to one that leads at least two less.
fn chain_from(
    from: NodeId,
    count: usize,
    shards: &[Led],
    leaders: &[Option<NodeId>],
    leads: &BTreeMap<NodeId, usize>,
) -> Option<(NodeId, Chain)> {
    // How each node was reached: the shard that is handed to it, and by whom.
    let mut reached: BTreeMap<NodeId, (usize, NodeId)> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if leads.get(&at).is_some_and(|there| there + 2 <= count) {
            return Some((at, trace(from, at, &reached)));
        }
        for (number, shard) in shards.iter().enumerate() {
            if leaders[number] != Some(at) {
                continue;
            }
            for next in &shard.candidates {
                if *next != from && !reached.contains_key(next) {
                    reached.insert(*next, (number, at));
                    queue.push_back(*next);
                }
            }
        }
    }
    None
}

fn trace(from: NodeId, to: NodeId, reached: &BTreeMap<NodeId, (usize, NodeId)>) -> Chain {
    let mut chain = Vec::new();
    let mut at = to;
    while at != from {
        let Some((shard, before)) = reached.get(&at) else {
            break;
        };
        chain.push((*shard, at));
        at = *before;
    }
    chain
}
