//! Proposals to a group, and their results.

use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;

use super::Group;
use crate::raft::types::{Command, ProposalCallback, StateMachine, TypeConfig};
use crate::types::NodeId;

/// Result of a proposal, passed to its callback.
pub(crate) type ProposalResult<M> = Result<<M as StateMachine>::CommandResult, ProposeError>;

/// Error of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It entered no log: this node doesn't lead the group.
    #[error("not the leader")]
    NotLeader {
        /// Leader of the group, if known.
        leader: Option<NodeId>,
    },
    /// It may have been applied, or may be applied yet.
    #[error("the outcome is unknown")]
    Unknown,
}

impl<M: StateMachine> Group<M> {
    /// Proposes a command. `done` is called once, unless Raft stops before the outcome is known:
    /// then it is dropped.
    pub async fn propose_with(
        &self,
        command: M::Command,
        done: impl FnOnce(ProposalResult<M>) + Send + 'static,
    ) {
        let callback = ProposalCallback(Box::new(move |result| done(proposal_result::<M>(result))));
        let command = Command::new(command);
        // An error means that Raft has stopped; it has dropped the callback.
        let _ = self.raft.client_write_ff(command, Some(callback)).await;
    }

    /// Proposes a command, but only in `term`: it enters no log if this node leads another one, or
    /// none.
    pub async fn propose_in_term(
        &self,
        term: u64,
        command: M::Command,
        done: impl FnOnce(ProposalResult<M>) + Send + 'static,
    ) {
        let callback = ProposalCallback(Box::new(move |result| done(proposal_result::<M>(result))));
        let write = self.raft.write(Command::new(command)).with_leader(term);
        // An error means that Raft has stopped; it has dropped the callback.
        let _ = write.responder(callback).await;
    }

    /// Proposes a command and waits for its response.
    pub async fn propose(&self, command: M::Command) -> ProposalResult<M> {
        let (response, receiver) = tokio::sync::oneshot::channel();
        self.propose_with(command, move |result| {
            // The caller may have given up.
            let _ = response.send(result);
        })
        .await;
        receiver.await.unwrap_or(Err(ProposeError::Unknown))
    }
}

fn proposal_result<M: StateMachine>(result: ClientWriteResult<TypeConfig<M>>) -> ProposalResult<M> {
    match result {
        Ok(written) => Ok(written.data),
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(ProposeError::NotLeader {
            leader: forward.leader_id,
        }),
        // It was in this node's log: another leader may have it too.
        Err(_) => Err(ProposeError::Unknown),
    }
}
