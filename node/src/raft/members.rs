//! Changes of a group's members, step by step.
//!
//! Whoever leads takes one step at a time towards the members that are wanted. Each step is safe
//! by itself, and the next one is found by looking at where the group stands: so a change that was
//! interrupted, in a joint configuration too, is finished by whoever leads next.
//!
//! Invariant: a leader is a voter of every configuration that it proposes, so none of them can be
//! won by another node alone, and none leaves a leader whose lease others don't know of. A leader
//! that is to leave hands over to a voter that stays, which closes its term. Where none stays,
//! those that come are made voters beside it first: from {1} to {2} the way is {1}, {1,2}, leader
//! 2, {2}.
//!
//! Each configuration is one entry, proposed here rather than by openraft's `change_membership`,
//! which proposes two in a row: before each, the leases counted in the one before are given an end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{BasicNode, EntryPayload, Precondition};

use super::asking::ask;
use super::group::Group;
use super::leading::hears;
use super::types::{CommittedLeaderId, LogId, Machine, Membership, NodeId};

/// Time for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// A learner this far behind, in entries, becomes a voter: the rest comes while it is one.
const NEARLY_LEVEL: u64 = 500;

/// The members that a group should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that vote; the first leads if it can.
    pub voters: Vec<NodeId>,
    /// Those that only follow.
    pub learners: Vec<NodeId>,
    /// Where they are.
    pub addresses: BTreeMap<NodeId, String>,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The group has the members that are wanted.
    Done,
    /// A step was taken; there may be more to do.
    Changed,
    /// Waiting for a member to catch up.
    CatchingUp(NodeId),
    /// This node doesn't lead, or the step failed: look again later.
    Later(String),
}

impl<M: Machine> Group<M> {
    /// The voters and learners that are in force here.
    pub fn members(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let nodes = membership.nodes().map(|(id, _)| *id);
        let learners = nodes.filter(|id| !voters.contains(id)).collect();
        (voters, learners)
    }

    /// Whether a node votes, as far as this member knows.
    pub fn is_voter(&self, node: NodeId) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.any(|voter| voter == node)
    }

    /// Whether a joint configuration is in force.
    fn is_joint(&self) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().len() > 1
    }

    /// Whether the members in force here are not yet those that the group keeps: until a change is
    /// over and agreed on, those that leave are needed, too.
    pub fn is_changing(&self) -> bool {
        let in_force = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.log_id().map_or(0, |at| at.index)
        };
        self.is_joint() || self.progress().applied_index() < in_force
    }

    /// Takes one step towards the members that are wanted, if this node leads.
    pub async fn approach(&self, wanted: &Members) -> Step {
        if self.led_term().is_none() || wanted.voters.is_empty() {
            return Step::Later("this node does not lead".to_owned());
        }
        let Ok(_alone) = self.changing().try_lock() else {
            return Step::Later("another change is under way".to_owned());
        };
        match tokio::time::timeout(STEP_TIMEOUT, self.step(wanted)).await {
            Ok(Ok(step)) => step,
            Ok(Err(reason)) => Step::Later(reason),
            Err(_) => Step::Later("it took too long".to_owned()),
        }
    }

    /// Lets leases be counted as before if a change of members was given up before anything came of
    /// it. Such a leader may answer no reads, and be asked for no further step.
    pub async fn recover_lease(&self) {
        if !self.lease().is_superseded() {
            return;
        }
        if let Ok(_alone) = self.changing().try_lock() {
            // An error means that Raft has stopped.
            let _ = self.configuration().await;
        }
    }

    async fn step(&self, wanted: &Members) -> Result<Step, String> {
        let me = self.node();
        let current = self.configuration().await?;
        let voters = current.voters();
        let mut goal: BTreeSet<NodeId> = wanted.voters.iter().copied().collect();
        let all: BTreeSet<NodeId> = goal.iter().chain(&wanted.learners).copied().collect();
        if let Some(id) = all.iter().find(|id| !current.nodes.contains_key(id)) {
            let addr = wanted.addresses.get(id).cloned().unwrap_or_default();
            let mut nodes = current.nodes.clone();
            nodes.insert(*id, BasicNode { addr });
            self.propose_nodes(&current, nodes).await?;
            return Ok(Step::Changed);
        }
        if !goal.contains(&me) {
            let heirs: Vec<NodeId> = goal.intersection(&voters).copied().collect();
            if !heirs.is_empty() {
                let handed = self
                    .hand_over(&heirs, "the node that led leaves the group")
                    .await;
                return Err(format!("leadership transfer to {heirs:?}: {handed}"));
            }
            goal.insert(me);
        }
        if current.sets != [goal.clone()] {
            if let Some(behind) = self.lagging(&goal, &voters) {
                return Ok(Step::CatchingUp(behind));
            }
            self.change_voters(current, &goal).await?;
            return Ok(Step::Changed);
        }
        let is_wanted = |id: &NodeId| all.contains(id) || goal.contains(id);
        if !current.nodes.keys().all(is_wanted) {
            let mut nodes = current.nodes.clone();
            nodes.retain(|id, _| is_wanted(id));
            self.propose_nodes(&current, nodes).await?;
            return Ok(Step::Changed);
        }
        Ok(Step::Done)
    }

    /// Changes the voters, by way of a joint configuration.
    async fn change_voters(
        &self,
        mut current: Configuration,
        goal: &BTreeSet<NodeId>,
    ) -> Result<(), String> {
        while let Some(next) = next_sets(&current.sets, goal) {
            let latest = Instant::now() + self.lease_length();
            self.lease()
                .supersede(current.term, current.index(), latest);
            let nodes = current.nodes.clone();
            let proposed = self.propose_members(&current, next, nodes).await;
            // Asked after the proposal: what it came to, if it was refused.
            current = self.configuration().await?;
            proposed?;
        }
        Ok(())
    }

    /// Changes who the members are, but not who votes.
    async fn propose_nodes(
        &self,
        current: &Configuration,
        nodes: BTreeMap<NodeId, BasicNode>,
    ) -> Result<(), String> {
        let sets = current.sets.clone();
        self.propose_members(current, sets, nodes).await
    }

    /// Proposes a configuration to follow `current`, if that is still in force and this node still
    /// leads its term.
    async fn propose_members(
        &self,
        current: &Configuration,
        sets: Vec<BTreeSet<NodeId>>,
        nodes: BTreeMap<NodeId, BasicNode>,
    ) -> Result<(), String> {
        let proposed = Membership::new(sets, nodes).map_err(|error| error.to_string())?;
        let conditions = [
            Precondition::LastMembershipLogId {
                last_membership_log_id: current.log_id,
            },
            Precondition::CommittedLeaderId {
                committed_leader_id: CommittedLeaderId::new(current.term),
            },
        ];
        let payload = EntryPayload::Blank;
        let raft = self.raft();
        let appended = raft.append_membership(proposed, payload, conditions).await;
        appended.map(|_| ()).map_err(|error| error.to_string())
    }

    /// The configuration in force, as Raft itself has it: metrics lag.
    ///
    /// Proposals of this node that were sent before have been looked at by then, so if none of
    /// them followed it, leases are counted in it again. Thus only who holds `changing` may ask,
    /// and not between `supersede` and the proposal.
    async fn configuration(&self) -> Result<Configuration, String> {
        let configuration = ask(self.raft(), |state| {
            let effective = state.membership_state.effective();
            let membership = effective.membership();
            let nodes = membership.nodes();
            Configuration {
                term: state.vote_ref().leader_id.term,
                log_id: *effective.log_id(),
                sets: membership.get_joint_config().clone(),
                nodes: nodes.map(|(id, node)| (*id, node.clone())).collect(),
            }
        });
        let configuration = configuration.await.ok_or("Raft has stopped")?;
        self.lease()
            .reinstate(configuration.term, configuration.index());
        Ok(configuration)
    }

    /// A member that is to vote and is too far behind for that, or silent: the group may need it
    /// for a majority then.
    fn lagging(&self, voters: &BTreeSet<NodeId>, current: &BTreeSet<NodeId>) -> Option<NodeId> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.as_ref();
        let behind = |id: &NodeId| {
            let matched = replication.and_then(|all| all.get(id)).copied().flatten();
            let matched = matched.map_or(0, |at| at.index);
            matched == 0 || last.saturating_sub(matched) > NEARLY_LEVEL || !hears(&metrics, *id)
        };
        voters.difference(current).copied().find(behind)
    }
}

/// A configuration of a group.
#[derive(Clone, Debug)]
struct Configuration {
    /// The group's term when it was asked for.
    term: u64,
    /// The entry that brought it.
    log_id: Option<LogId>,
    /// The voters; several sets while they change.
    sets: Vec<BTreeSet<NodeId>>,
    /// All members.
    nodes: BTreeMap<NodeId, BasicNode>,
}

impl Configuration {
    fn voters(&self) -> BTreeSet<NodeId> {
        self.sets.iter().flatten().copied().collect()
    }

    fn index(&self) -> u64 {
        self.log_id.map_or(0, |at| at.index)
    }
}

/// The next configuration on the way to one set of voters; `None` if it is reached. It shares a set
/// with the one before, so that their majorities meet.
fn next_sets(
    current: &[BTreeSet<NodeId>],
    goal: &BTreeSet<NodeId>,
) -> Option<Vec<BTreeSet<NodeId>>> {
    match current {
        [only] if only == goal => None,
        sets if sets.contains(goal) => Some(vec![goal.clone()]),
        [.., last] => Some(vec![last.clone(), goal.clone()]),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(sets: &[&[NodeId]]) -> Vec<BTreeSet<NodeId>> {
        let set = |ids: &&[NodeId]| ids.iter().copied().collect();
        sets.iter().map(set).collect()
    }

    #[test]
    fn voters_change_by_way_of_a_joint_configuration() {
        let next =
            |current: &[&[NodeId]], goal: &[NodeId]| next_sets(&sets(current), &sets(&[goal])[0]);
        assert_eq!(next(&[&[1, 2]], &[1, 2]), None);
        assert_eq!(next(&[&[1]], &[1, 2]), Some(sets(&[&[1], &[1, 2]])));
        assert_eq!(next(&[&[1], &[1, 2]], &[1, 2]), Some(sets(&[&[1, 2]])));
        assert_eq!(next(&[&[1], &[1, 2]], &[1]), Some(sets(&[&[1]])));
        // What was wanted has changed meanwhile.
        assert_eq!(
            next(&[&[1], &[1, 2]], &[1, 3]),
            Some(sets(&[&[1, 2], &[1, 3]]))
        );
    }
}
