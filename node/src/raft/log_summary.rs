//! Extent of a group's log on this node, and the configuration in force in it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::group::Group;
use super::query::query_state;
use super::types::{LogId, StateMachine};
use crate::types::NodeId;

/// Position of an entry in a log. Of two logs of a group, the one whose last entry has the greater
/// position is the more up-to-date one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LogPosition {
    /// Term in which the entry was proposed.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

impl LogPosition {
    fn of(log_id: &LogId) -> Self {
        Self {
            term: log_id.leader_id.term,
            index: log_id.index,
        }
    }
}

/// A group's log on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogSummary {
    /// Last entry; `None` if there never was one.
    pub last: Option<LogPosition>,
    /// Last entry that this node knows to be committed.
    pub committed: Option<LogPosition>,
    /// Voters of the configuration in force; while it is a joint one, a majority of each set is
    /// needed.
    pub voter_sets: Vec<BTreeSet<NodeId>>,
    /// Members without a vote.
    pub learners: BTreeSet<NodeId>,
}

impl LogSummary {
    /// Voters of all sets.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.voter_sets.iter().flatten().copied().collect()
    }

    /// Returns whether a node votes or learns.
    pub(crate) fn has_member(&self, node: NodeId) -> bool {
        self.learners.contains(&node) || self.voter_sets.iter().any(|set| set.contains(&node))
    }
}

impl<M: StateMachine> Group<M> {
    /// Returns the extent of this node's log, as Raft itself has it; `None` once Raft has stopped.
    pub(crate) async fn log_summary(&self) -> Option<LogSummary> {
        query_state(self.raft(), |state| {
            let membership = state.membership_state.effective().membership();
            let voter_sets = membership.get_joint_config().clone();
            let is_voter = |id: &NodeId| voter_sets.iter().any(|set| set.contains(id));
            let members = membership.nodes().map(|(id, _)| *id);
            LogSummary {
                last: state.log_ids.last().map(LogPosition::of),
                committed: state.local_committed().map(LogPosition::of),
                learners: members.filter(|id| !is_voter(id)).collect(),
                voter_sets,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::snapshot_receiver_tests::group;

    #[test]
    fn a_later_term_counts_more_than_a_longer_log() {
        let position = |term, index| LogPosition { term, index };
        assert!(position(3, 10) > position(2, 90));
        assert!(position(3, 11) > position(3, 10));
        assert!(Some(position(0, 0)) > None);
    }

    #[test]
    fn members_of_a_joint_configuration_are_those_of_both_sets() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId::from).collect();
        let state = LogSummary {
            voter_sets: vec![nodes(&[1, 2, 3]), nodes(&[1, 4, 5])],
            learners: nodes(&[6]),
            ..LogSummary::default()
        };
        assert_eq!(state.voters(), nodes(&[1, 2, 3, 4, 5]));
        assert!(state.has_member(NodeId::from(4)) && state.has_member(NodeId::from(6)));
        assert!(!state.has_member(NodeId::from(7)));
    }

    #[tokio::test]
    async fn a_new_group_has_no_log_and_a_stopped_one_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let group = group(&dir).await;
        assert_eq!(group.log_summary().await, Some(LogSummary::default()));
        group.stop().await.unwrap();
        assert_eq!(group.log_summary().await, None);
    }
}
