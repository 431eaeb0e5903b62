//! Many merges of other regions in one Raft entry.
//!
//! Merges that wait go together in the next entry, in the order in which they came. Invariant: a
//! merge that is answered was applied, or refused by the state as a whole; what isn't answered its
//! sender sends again.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::merge::MergeOutcome;
use super::proposer::{QueueBudget, Taken};
use super::state::{Response, Shard};
use crate::clock::Clock;
use crate::raft::{Group, ProposeError};

/// Merges that may wait per shard; their bytes are bounded over all shards.
const QUEUE: usize = 1024;
/// Bytes of merges in one entry, about.
const ENTRY_BYTES: usize = 1 << 20;

/// Why a merge has no outcome. It can be sent again: what was applied isn't applied twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// This node doesn't lead the shard.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// Too much waits.
    #[error("too many merges are waiting")]
    Overloaded,
    /// It may be applied, or not.
    #[error("the outcome is unknown")]
    Unknown,
}

type Outcome = Result<MergeOutcome, MergeError>;

pub(super) struct Pending {
    merge: pb::Merge,
    bytes: Taken,
    answer: oneshot::Sender<Outcome>,
}

/// The way into a shard's merges.
#[derive(Clone)]
pub(super) struct MergeQueue {
    sender: mpsc::Sender<Pending>,
    budget: QueueBudget,
}

impl MergeQueue {
    /// Queues a merge; its outcome comes through the receiver.
    pub fn push(&self, merge: pb::Merge) -> Result<oneshot::Receiver<Outcome>, MergeError> {
        let bytes = self.budget.take(merge.encoded_len() + 128);
        let bytes = bytes.ok_or(MergeError::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        let pending = Pending {
            merge,
            bytes,
            answer,
        };
        match self.sender.try_send(pending) {
            Ok(()) => Ok(outcome),
            Err(mpsc::error::TrySendError::Full(_)) => Err(MergeError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(MergeError::NotLeader),
        }
    }
}

/// Starts a shard's merger on the current runtime, until `stop`.
pub(super) fn start(
    group: Arc<Group<Shard>>,
    clock: Clock,
    budget: QueueBudget,
    stop: CancellationToken,
) -> MergeQueue {
    let (sender, mut waiting) = mpsc::channel::<Pending>(QUEUE);
    let run = async move {
        while let Some(first) = waiting.recv().await {
            let (mut merges, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
            let mut next = Some(first);
            while let Some(pending) = next.take() {
                bytes += pending.bytes.bytes();
                merges.push(pending.merge);
                answers.push((pending.answer, pending.bytes));
                if bytes < ENTRY_BYTES {
                    next = waiting.try_recv().ok();
                }
            }
            let time = clock.now();
            let merges = Command::Merges(pb::Merges { time, merges });
            let kind = Some(merges);
            let result = group.propose(pb::ShardCommand { kind }).await;
            let failed = match result {
                Ok(Response::Merges(outcomes)) if outcomes.len() == answers.len() => {
                    for ((answer, _), outcome) in answers.into_iter().zip(outcomes) {
                        // Whoever sent it may have given up.
                        let _ = answer.send(Ok(outcome));
                    }
                    continue;
                }
                Err(ProposeError::NotLeader { .. }) => MergeError::NotLeader,
                Ok(_) | Err(ProposeError::Unknown) => MergeError::Unknown,
            };
            for (answer, _) in answers {
                let _ = answer.send(Err(failed));
            }
        }
    };
    tokio::spawn(stop.run_until_cancelled_owned(run));
    MergeQueue { sender, budget }
}
