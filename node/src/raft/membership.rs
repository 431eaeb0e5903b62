//! Changes a group's members, step by step.
//!
//! The leader takes one step at a time towards the target membership. Each step is safe by itself,
//! and the next one follows from the group's current configuration: so a change that was
//! interrupted, in a joint configuration too, is finished by the next leader.
//!
//! Invariant: a leader is a voter of every configuration that it proposes, so none of them can be
//! won by another node alone, and none leaves a leader whose lease others don't know of. A leader
//! that is to be removed transfers leadership to a voter that stays, which closes its term. If none
//! stays, the new voters are added beside it first: from {1} to {2} the steps are {1}, {1,2},
//! leader 2, {2}.
//!
//! Each configuration is one entry, proposed here rather than by openraft's `change_membership`,
//! which proposes two in a row: before each, the leases counted in the previous one are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{BasicNode, EntryPayload, Precondition};

use super::group::Group;
use super::leadership::is_responsive;
use super::query::query_state;
use super::types::{CommittedLeaderId, LogId, Membership, StateMachine};
use crate::types::NodeId;

/// Maximum duration of one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of missing entries with which a learner becomes a voter: it receives the rest as
/// a voter.
const MAX_PROMOTION_LAG: u64 = 500;

/// Membership that a group should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetMembership {
    /// Members with a vote; the first leads if it can.
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    pub learners: Vec<NodeId>,
    /// Addresses of the members.
    pub addresses: BTreeMap<NodeId, String>,
}

/// Result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipStep {
    /// The group has the target membership.
    Done,
    /// A step was taken; there may be more to do.
    Changed,
    /// A member has to catch up first.
    CatchingUp(NodeId),
    /// This node doesn't lead, or the step failed: to be retried.
    Retry(String),
}

impl<M: StateMachine> Group<M> {
    /// Voters and learners of the configuration in force here.
    pub fn members(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let nodes = membership.nodes().map(|(id, _)| *id);
        let learners = nodes.filter(|id| !voters.contains(id)).collect();
        (voters, learners)
    }

    /// Returns whether a node votes, as far as this member knows.
    pub fn is_voter(&self, node: NodeId) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.any(|voter| voter == node)
    }

    /// Returns whether a joint configuration is in force.
    fn is_joint(&self) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        membership.get_joint_config().len() > 1
    }

    /// Returns whether the configuration in force here may still change: until a change is finished
    /// and committed, the members that are being removed are needed, too.
    pub fn is_changing(&self) -> bool {
        let in_force = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.log_id().map_or(0, |at| at.index)
        };
        self.is_joint() || self.progress().applied_index() < in_force
    }

    /// Takes one step towards the target membership, if this node leads.
    pub async fn advance_membership(&self, target: &TargetMembership) -> MembershipStep {
        if self.led_term().is_none() || target.voters.is_empty() {
            return MembershipStep::Retry("this node does not lead".to_owned());
        }
        let Ok(_alone) = self.membership_lock().try_lock() else {
            return MembershipStep::Retry("another change is under way".to_owned());
        };
        match tokio::time::timeout(STEP_TIMEOUT, self.take_membership_step(target)).await {
            Ok(Ok(step)) => step,
            Ok(Err(reason)) => MembershipStep::Retry(reason),
            Err(_) => MembershipStep::Retry("the step timed out".to_owned()),
        }
    }

    /// Lets leases be counted as before if a membership change was abandoned without effect. Such a
    /// leader may answer no reads, and get no further step to take.
    pub async fn recover_lease(&self) {
        if !self.lease().is_superseded() {
            return;
        }
        if let Ok(_alone) = self.membership_lock().try_lock() {
            // An error means that Raft has stopped.
            let _ = self.configuration().await;
        }
    }

    async fn take_membership_step(
        &self,
        target: &TargetMembership,
    ) -> Result<MembershipStep, String> {
        let me = self.node();
        let current = self.configuration().await?;
        let voters = current.voters();
        let mut goal: BTreeSet<NodeId> = target.voters.iter().copied().collect();
        let all: BTreeSet<NodeId> = goal.iter().chain(&target.learners).copied().collect();
        if let Some(id) = all.iter().find(|id| !current.nodes.contains_key(id)) {
            let addr = target.addresses.get(id).cloned().unwrap_or_default();
            let mut nodes = current.nodes.clone();
            nodes.insert(*id, BasicNode { addr });
            self.propose_nodes(&current, nodes).await?;
            return Ok(MembershipStep::Changed);
        }
        if !goal.contains(&me) {
            let successors: Vec<NodeId> = goal.intersection(&voters).copied().collect();
            if !successors.is_empty() {
                let is_transferred = self
                    .transfer_leadership(&successors, "the leader is being removed from the group")
                    .await;
                let targets: Vec<u64> = successors.into_iter().map(u64::from).collect();
                return Err(format!(
                    "leadership transfer to {targets:?}: {is_transferred}"
                ));
            }
            goal.insert(me);
        }
        if current.voter_sets != [goal.clone()] {
            if let Some(lagging) = self.lagging_voter(&goal, &voters) {
                return Ok(MembershipStep::CatchingUp(lagging));
            }
            self.change_voters(current, &goal).await?;
            return Ok(MembershipStep::Changed);
        }
        let is_target = |id: &NodeId| all.contains(id) || goal.contains(id);
        if !current.nodes.keys().all(is_target) {
            let mut nodes = current.nodes.clone();
            nodes.retain(|id, _| is_target(id));
            self.propose_nodes(&current, nodes).await?;
            return Ok(MembershipStep::Changed);
        }
        Ok(MembershipStep::Done)
    }

    /// Changes the voters, by way of a joint configuration.
    async fn change_voters(
        &self,
        mut current: Configuration,
        goal: &BTreeSet<NodeId>,
    ) -> Result<(), String> {
        while let Some(next) = next_voter_sets(&current.voter_sets, goal) {
            let latest = Instant::now() + self.lease_duration();
            self.lease()
                .supersede(current.term, current.index(), latest);
            let nodes = current.nodes.clone();
            let proposed = self.propose_configuration(&current, next, nodes).await;
            // Read after the proposal: its effect, if it was refused.
            current = self.configuration().await?;
            proposed?;
        }
        Ok(())
    }

    /// Changes the members, but not the voters.
    async fn propose_nodes(
        &self,
        current: &Configuration,
        nodes: BTreeMap<NodeId, BasicNode>,
    ) -> Result<(), String> {
        let sets = current.voter_sets.clone();
        self.propose_configuration(current, sets, nodes).await
    }

    /// Proposes a configuration to follow `current`, if that is still in force and this node still
    /// leads its term.
    async fn propose_configuration(
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

    /// Configuration in force, as Raft itself has it: metrics lag.
    ///
    /// Earlier proposals of this node have been processed by then, so if none of them followed it,
    /// leases are counted in it again. Thus it is called only with `membership_lock` held, and not
    /// between `supersede` and the proposal.
    async fn configuration(&self) -> Result<Configuration, String> {
        let configuration = query_state(self.raft(), |state| {
            let effective = state.membership_state.effective();
            let membership = effective.membership();
            let nodes = membership.nodes();
            Configuration {
                term: state.vote_ref().leader_id.term,
                log_id: *effective.log_id(),
                voter_sets: membership.get_joint_config().clone(),
                nodes: nodes.map(|(id, node)| (*id, node.clone())).collect(),
            }
        });
        let configuration = configuration.await.ok_or("Raft has stopped")?;
        self.lease()
            .reinstate(configuration.term, configuration.index());
        Ok(configuration)
    }

    /// Returns a future voter that is too far behind to vote, or silent: the group may need it for
    /// a majority then.
    fn lagging_voter(
        &self,
        voters: &BTreeSet<NodeId>,
        current: &BTreeSet<NodeId>,
    ) -> Option<NodeId> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.as_ref();
        let is_lagging = |id: &NodeId| {
            let matched = replication.and_then(|all| all.get(id)).copied().flatten();
            let matched = matched.map_or(0, |at| at.index);
            matched == 0
                || last.saturating_sub(matched) > MAX_PROMOTION_LAG
                || !is_responsive(&metrics, *id)
        };
        voters.difference(current).copied().find(is_lagging)
    }
}

/// A configuration of a group.
#[derive(Clone, Debug)]
struct Configuration {
    /// Term of the group when it was queried.
    term: u64,
    /// Position of the entry that holds it.
    log_id: Option<LogId>,
    /// Voters; two sets in a joint configuration.
    voter_sets: Vec<BTreeSet<NodeId>>,
    /// All members.
    nodes: BTreeMap<NodeId, BasicNode>,
}

impl Configuration {
    fn voters(&self) -> BTreeSet<NodeId> {
        self.voter_sets.iter().flatten().copied().collect()
    }

    fn index(&self) -> u64 {
        self.log_id.map_or(0, |at| at.index)
    }
}

/// Returns the next configuration on the way to one set of voters; `None` if it is reached. It
/// shares a set with the previous one, so that their majorities intersect.
fn next_voter_sets(
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

    fn sets(sets: &[&[u64]]) -> Vec<BTreeSet<NodeId>> {
        let set = |ids: &&[u64]| ids.iter().copied().map(NodeId::from).collect();
        sets.iter().map(set).collect()
    }

    #[test]
    fn voters_change_by_way_of_a_joint_configuration() {
        let next =
            |current: &[&[u64]], goal: &[u64]| next_voter_sets(&sets(current), &sets(&[goal])[0]);
        assert_eq!(next(&[&[1, 2]], &[1, 2]), None);
        assert_eq!(next(&[&[1]], &[1, 2]), Some(sets(&[&[1], &[1, 2]])));
        assert_eq!(next(&[&[1], &[1, 2]], &[1, 2]), Some(sets(&[&[1, 2]])));
        assert_eq!(next(&[&[1], &[1, 2]], &[1]), Some(sets(&[&[1]])));
        // The target has changed meanwhile.
        assert_eq!(
            next(&[&[1], &[1, 2]], &[1, 3]),
            Some(sets(&[&[1, 2], &[1, 3]]))
        );
    }
}
