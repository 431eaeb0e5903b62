//! Summary of a group's state, for operators.

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::Group;
use crate::raft::types::StateMachine;
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// Summary of a group's state.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Id of the group.
    pub group: GroupId,
    /// Current term.
    pub term: u64,
    /// Leader, if known.
    pub leader: Option<NodeId>,
    /// Index of the last entry in this node's log.
    pub last_log_index: u64,
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// Index up to which the log was purged.
    pub purged_index: u64,
    /// Set if this node answers linearizable reads.
    pub is_readable: bool,
    /// Set if this node's state is damaged on its disk.
    pub is_damaged: bool,
    /// Role of this node in the group.
    pub role: &'static str,
    /// Members with a vote.
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    pub learners: Vec<NodeId>,
    /// Set while the members are being changed.
    pub is_changing: bool,
    /// Number of entries that each other member lacks, as far as the leader knows.
    pub lag: Vec<(NodeId, u64)>,
}

impl<M: StateMachine> Group<M> {
    /// Returns a summary of the group's state.
    pub fn status(&self) -> GroupStatus {
        let (voters, learners) = self.members();
        let changing = self.is_changing();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let others = metrics.replication.iter().flatten();
        let lag = others
            .filter(|(node, _)| **node != self.node)
            .map(|(node, at)| {
                let matched = at.as_ref().map_or(0, |at| at.index);
                (*node, last.saturating_sub(matched))
            });
        GroupStatus {
            role: match metrics.state {
                ServerState::Leader => "leader",
                ServerState::Follower => "follower",
                ServerState::Learner => "learner",
                ServerState::Candidate => "candidate",
                ServerState::Shutdown => "stopped",
            },
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
            is_changing: changing,
            lag: lag.collect(),
            group: self.id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: self.progress.applied_index(),
            purged_index: self.log.purged_index(),
            is_readable: self.may_read(),
            is_damaged: self.damage.is_damaged(),
        }
    }
}
