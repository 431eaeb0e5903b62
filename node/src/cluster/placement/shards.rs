//! Plans the nodes of each shard of a region.
//!
//! | active nodes | voters of a shard | learners |
//! | --- | --- | --- |
//! | 1 | that node | |
//! | 2 | one of them, the current one if it can stay | the other |
//! | 3 or more | three | none |
//!
//! Invariants:
//! - a node that is not a candidate was removed: no plan contains it;
//! - a step from three voters to three replaces at most one that is still a candidate, and none
//!   where a removed one is replaced. So unless two were removed, a majority has the data;
//! - a single voter is kept while two others join it, and replaced by a later step;
//! - from three voters to one there is no step in between: with two active nodes left, one stays;
//! - when nothing changes any more, and three or more nodes are active, the numbers of shards of
//!   any two of them differ by at most one, and so do the numbers of shards that they should lead.

use std::collections::{BTreeMap, BTreeSet};

use super::leaders::{LeaderCandidates, choose_leaders};
use crate::raft::NodeId;

/// Number of voters of a shard where there are enough nodes.
const VOTERS_PER_SHARD: usize = 3;

/// Candidate for shards: a node of the region that was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardCandidate {
    /// ID of the node.
    pub id: NodeId,
    /// True unless the node is being decommissioned: only such nodes get shards.
    pub is_active: bool,
}

/// Current nodes of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CurrentPlacement {
    /// Voters; the first is the preferred leader.
    pub voters: Vec<NodeId>,
    /// Learners.
    pub learners: Vec<NodeId>,
}

/// Planned nodes of a shard after the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardPlan {
    /// Number of the shard.
    pub shard: u16,
    /// Voters; the first is the preferred leader.
    pub voters: Vec<NodeId>,
    /// Learners.
    pub learners: Vec<NodeId>,
}

/// Plans the next step of a region's `shards`; `current[i]` are the nodes of shard `i`. The plan
/// contains only shards that change; without an active node none does.
pub(crate) fn plan_shards(
    nodes: &[ShardCandidate],
    shards: u16,
    current: &[Option<CurrentPlacement>],
) -> Vec<ShardPlan> {
    let active: BTreeSet<NodeId> = nodes
        .iter()
        .filter(|node| node.is_active)
        .map(|node| node.id)
        .collect();
    if active.is_empty() {
        return Vec::new();
    }
    let known: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    let none = CurrentPlacement::default();
    let drafts = (0..usize::from(shards))
        .map(|shard| current.get(shard).and_then(Option::as_ref).unwrap_or(&none))
        .map(|current| ShardDraft::new(current, &known, &active))
        .collect();
    let mut planner = ShardPlanner { active, drafts };
    if planner.active.len() < VOTERS_PER_SHARD {
        planner.choose_single_voters();
    } else {
        planner.add_voters();
        planner.replace_decommissioned();
        planner.balance();
    }
    planner.into_plans()
}

/// Plan of a shard in progress.
struct ShardDraft<'a> {
    current: &'a CurrentPlacement,
    voters: Vec<NodeId>,
    /// True if one of the current voters may still be replaced.
    may_replace: bool,
}

impl<'a> ShardDraft<'a> {
    fn new(
        current: &'a CurrentPlacement,
        known: &BTreeSet<NodeId>,
        active: &BTreeSet<NodeId>,
    ) -> Self {
        let kept = current.voters.iter().filter(|id| known.contains(id));
        let mut voters: Vec<NodeId> = kept.copied().collect();
        // No plan has more than three voters; if there were more, active ones would stay.
        voters.sort_by_key(|id| !active.contains(id));
        voters.truncate(VOTERS_PER_SHARD);
        Self {
            may_replace: voters.len() == VOTERS_PER_SHARD
                && current.voters.len() == VOTERS_PER_SHARD,
            voters,
            current,
        }
    }

    fn may_drop(&self, id: NodeId) -> bool {
        self.may_replace || !self.current.voters.contains(&id)
    }

    fn replace(&mut self, old: NodeId, new: NodeId) {
        if self.current.voters.contains(&old) {
            self.may_replace = false;
        }
        self.voters.retain(|id| *id != old);
        self.voters.push(new);
    }
}

/// Number of shards of each active node.
type ShardCounts = BTreeMap<NodeId, usize>;

struct ShardPlanner<'a> {
    active: BTreeSet<NodeId>,
    drafts: Vec<ShardDraft<'a>>,
}

impl ShardPlanner<'_> {
    fn loads(&self) -> ShardCounts {
        let mut loads: ShardCounts = self.active.iter().map(|id| (*id, 0)).collect();
        for id in self.drafts.iter().flat_map(|draft| &draft.voters) {
            if let Some(load) = loads.get_mut(id) {
                *load += 1;
            }
        }
        loads
    }

    /// Chooses a single voter of each shard: a current voter, a current learner, or any active
    /// node.
    fn choose_single_voters(&mut self) {
        let active = &self.active;
        let choices = |draft: &ShardDraft<'_>| {
            let active_of = |ids: &[NodeId]| -> Vec<NodeId> {
                let ids = ids.iter().filter(|id| active.contains(id));
                ids.copied().collect()
            };
            [active_of(&draft.voters), active_of(&draft.current.learners)]
                .into_iter()
                .find(|ids| !ids.is_empty())
                .unwrap_or_else(|| active.iter().copied().collect())
        };
        let mut undecided = Vec::new();
        for (shard, draft) in self.drafts.iter_mut().enumerate() {
            draft.voters = choices(draft);
            if draft.voters.len() > 1 {
                undecided.push((shard, std::mem::take(&mut draft.voters)));
            }
        }
        let mut loads = self.loads();
        for (shard, choices) in undecided {
            let load = |id: &NodeId| loads.get(id).copied();
            if let Some(id) = choices.into_iter().min_by_key(load) {
                self.drafts[shard].voters = vec![id];
                *loads.entry(id).or_default() += 1;
            }
        }
    }

    /// Adds voters until there are three.
    fn add_voters(&mut self) {
        let mut loads = self.loads();
        for draft in &mut self.drafts {
            while draft.voters.len() < VOTERS_PER_SHARD {
                let Some(id) = least_loaded(draft, &loads) else {
                    break;
                };
                draft.voters.push(id);
                *loads.entry(id).or_default() += 1;
            }
        }
    }

    /// Replaces voters that are being decommissioned.
    fn replace_decommissioned(&mut self) {
        let mut loads = self.loads();
        for draft in &mut self.drafts {
            let mut voters = draft.voters.iter().copied();
            let decommissioning =
                voters.find(|id| !self.active.contains(id) && draft.may_drop(*id));
            if let (Some(old), Some(new)) = (decommissioning, least_loaded(draft, &loads)) {
                draft.replace(old, new);
                *loads.entry(new).or_default() += 1;
            }
        }
    }

    /// Moves voters from nodes with more shards to nodes with fewer, within the limits of one step.
    fn balance(&mut self) {
        let mut loads = self.loads();
        while let Some((shard, from, to)) = self.find_move(&loads) {
            self.drafts[shard].replace(from, to);
            *loads.entry(from).or_default() -= 1;
            *loads.entry(to).or_default() += 1;
        }
    }

    fn find_move(&self, loads: &ShardCounts) -> Option<(usize, NodeId, NodeId)> {
        let mut nodes: Vec<(usize, NodeId)> = loads.iter().map(|(id, load)| (*load, *id)).collect();
        nodes.sort_unstable();
        nodes.iter().rev().find_map(|(most, from)| {
            let fewer = nodes.iter().take_while(|(load, _)| load + 2 <= *most);
            fewer
                .filter_map(|(_, to)| Some((self.shard_to_move(*from, *to)?, *from, *to)))
                .next()
        })
    }

    /// Finds the shard in which one node may replace another at the least cost.
    fn shard_to_move(&self, from: NodeId, to: NodeId) -> Option<usize> {
        let cost = |draft: &ShardDraft<'_>| {
            let leads = draft.current.voters.first() == Some(&from);
            (draft.current.voters.contains(&from), leads)
        };
        self.drafts
            .iter()
            .enumerate()
            .filter(|(_, draft)| draft.voters.contains(&from) && !draft.voters.contains(&to))
            .filter(|(_, draft)| draft.may_drop(from))
            .min_by_key(|(shard, draft)| (cost(draft), *shard))
            .map(|(shard, _)| shard)
    }

    /// Chooses leaders and learners, and leaves out shards that don't change.
    fn into_plans(self) -> Vec<ShardPlan> {
        let candidates: Vec<LeaderCandidates> = self
            .drafts
            .iter()
            .map(|draft| self.leader_candidates(draft))
            .collect();
        let leaders = choose_leaders(&candidates);
        let plans = self.drafts.iter().zip(leaders).zip(0..);
        plans
            .map(|((draft, leader), shard)| (draft, self.shard_plan(draft, leader, shard)))
            .filter(|(draft, plan)| !is_in_place(draft.current, plan))
            .map(|(_, plan)| plan)
            .collect()
    }

    fn leader_candidates(&self, draft: &ShardDraft<'_>) -> LeaderCandidates {
        let may_lead = draft.voters.iter().filter(|id| self.active.contains(id));
        LeaderCandidates {
            candidates: may_lead.copied().collect(),
            current: draft.current.voters.first().copied(),
        }
    }

    fn shard_plan(&self, draft: &ShardDraft<'_>, leader: Option<NodeId>, shard: u16) -> ShardPlan {
        let mut voters = draft.voters.clone();
        voters.sort_unstable_by_key(|id| (Some(*id) != leader, *id));
        let has_two_nodes = self.active.len() == 2;
        let others = self.active.iter().filter(|id| !voters.contains(id));
        let learners = others.filter(|_| has_two_nodes).copied().collect();
        ShardPlan {
            shard,
            voters,
            learners,
        }
    }
}

/// Finds the active node with the fewest shards that isn't a voter of this one; its learners come
/// first.
fn least_loaded(draft: &ShardDraft<'_>, loads: &ShardCounts) -> Option<NodeId> {
    loads
        .iter()
        .filter(|(id, _)| !draft.voters.contains(id))
        .min_by_key(|(id, load)| (**load, !draft.current.learners.contains(id), **id))
        .map(|(id, _)| *id)
}

/// Returns whether a shard already has the planned nodes and the planned leader.
fn is_in_place(current: &CurrentPlacement, plan: &ShardPlan) -> bool {
    let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<_>>();
    current.voters.first() == plan.voters.first()
        && set(&current.voters) == set(&plan.voters)
        && set(&current.learners) == set(&plan.learners)
}
