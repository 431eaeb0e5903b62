//! Changes of a group's members, step by step.
//!
//! Whoever leads takes one step at a time towards the members that are wanted. Each step is safe
//! by itself, and the next one is found by looking at where the group stands: so a change that was
//! interrupted, in a joint configuration too, is finished by whoever leads next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{BasicNode, ChangeMembers};

use super::group::Group;
use super::types::{Machine, NodeId};

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
        let step = tokio::time::timeout(STEP_TIMEOUT, self.step(wanted)).await;
        step.unwrap_or_else(|_| Step::Later("it took too long".to_owned()))
    }

    async fn step(&self, wanted: &Members) -> Step {
        let voters: BTreeSet<NodeId> = wanted.voters.iter().copied().collect();
        let all: BTreeSet<NodeId> = voters.iter().chain(&wanted.learners).copied().collect();
        let (current, learners) = self.members();
        let missing = all
            .iter()
            .find(|id| !current.contains(id) && !learners.contains(id));
        if let Some(id) = missing {
            let addr = wanted.addresses.get(id).cloned().unwrap_or_default();
            return self.add_learner(*id, addr).await;
        }
        if current != voters || self.is_joint() {
            if let Some(behind) = self.lagging(&voters, &current) {
                return Step::CatchingUp(behind);
            }
            if !voters.contains(&self.node()) {
                // A leader that leaves would leave its group without one.
                let heirs: Vec<NodeId> = voters.intersection(&current).copied().collect();
                if !heirs.is_empty() && !self.is_joint() {
                    self.hand_over(&heirs).await;
                    return Step::Later("leadership was handed over".to_owned());
                }
            }
            return self
                .change(ChangeMembers::ReplaceAllVoters(voters), true)
                .await;
        }
        let extra: BTreeSet<NodeId> = learners.difference(&all).copied().collect();
        if !extra.is_empty() {
            return self.change(ChangeMembers::RemoveNodes(extra), false).await;
        }
        Step::Done
    }

    async fn add_learner(&self, id: NodeId, addr: String) -> Step {
        let added = self.raft().add_learner(id, BasicNode { addr }, false).await;
        match added {
            Ok(_) => Step::Changed,
            Err(error) => Step::Later(error.to_string()),
        }
    }

    async fn change(&self, change: ChangeMembers<NodeId, BasicNode>, retain: bool) -> Step {
        match self.raft().change_membership(change, retain).await {
            Ok(_) => Step::Changed,
            Err(error) => Step::Later(error.to_string()),
        }
    }

    /// A member that is to vote and is too far behind for that.
    fn lagging(&self, voters: &BTreeSet<NodeId>, current: &BTreeSet<NodeId>) -> Option<NodeId> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let replication = metrics.replication.as_ref();
        let behind = |id: &NodeId| {
            let matched = replication.and_then(|all| all.get(id)).copied().flatten();
            let matched = matched.map_or(0, |at| at.index);
            matched == 0 || last.saturating_sub(matched) > NEARLY_LEVEL
        };
        voters.difference(current).copied().find(behind)
    }
}
