//! Chooses the voter of each shard that should lead; a leader stays where the numbers allow it.
//!
//! Leadership moves along chains: from the node that leads most shards, over shards with common
//! voters, to a node that leads at least two fewer. When no chain is left, no assignment of these
//! voters is more even.

use std::collections::{BTreeMap, VecDeque};

use crate::raft::NodeId;

/// Shard whose leader is to be chosen.
#[derive(Clone, Debug)]
pub(super) struct LeaderCandidates {
    /// Voters that may lead; at least one.
    pub candidates: Vec<NodeId>,
    /// Current leader.
    pub current: Option<NodeId>,
}

/// Chooses the leader of each shard; `None` only where no voter may lead.
pub(super) fn choose_leaders(shards: &[LeaderCandidates]) -> Vec<Option<NodeId>> {
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

/// Shards of a chain, each with its new leader.
type TransferChain = Vec<(usize, NodeId)>;

fn find_chain(
    shards: &[LeaderCandidates],
    leaders: &[Option<NodeId>],
    leads: &BTreeMap<NodeId, usize>,
) -> Option<(NodeId, NodeId, TransferChain)> {
    let mut most: Vec<(NodeId, usize)> = leads.iter().map(|(id, count)| (*id, *count)).collect();
    most.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
    most.into_iter().find_map(|(from, count)| {
        let (to, chain) = chain_from(from, count, shards, leaders, leads)?;
        Some((from, to, chain))
    })
}

/// Finds the shortest chain from a node to one that leads at least two fewer shards.
fn chain_from(
    from: NodeId,
    count: usize,
    shards: &[LeaderCandidates],
    leaders: &[Option<NodeId>],
    leads: &BTreeMap<NodeId, usize>,
) -> Option<(NodeId, TransferChain)> {
    // Step by which each node was reached: the shard that moves to it, and from which node.
    let mut reached: BTreeMap<NodeId, (usize, NodeId)> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if leads
            .get(&node)
            .is_some_and(|target_count| target_count + 2 <= count)
        {
            return Some((node, trace_chain(from, node, &reached)));
        }
        for (number, shard) in shards.iter().enumerate() {
            if leaders[number] != Some(node) {
                continue;
            }
            for candidate in &shard.candidates {
                if *candidate != from && !reached.contains_key(candidate) {
                    reached.insert(*candidate, (number, node));
                    queue.push_back(*candidate);
                }
            }
        }
    }
    None
}

fn trace_chain(
    from: NodeId,
    to: NodeId,
    reached: &BTreeMap<NodeId, (usize, NodeId)>,
) -> TransferChain {
    let mut chain = Vec::new();
    let mut node = to;
    while node != from {
        let Some((shard, previous)) = reached.get(&node) else {
            break;
        };
        chain.push((*shard, node));
        node = *previous;
    }
    chain
}
