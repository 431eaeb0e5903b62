//! Many merges of other regions in one Raft entry.
//!
//! Merges that wait go together in the next entry, in the order in which they came. Invariant: a
//! merge that is answered was applied, or refused by the state as a whole; what isn't answered its
//! sender sends again.
//!
//! A region that was away gets more than it can take at once while it serves: those merges take turns
//! over all shards, at a pace (`pace`).

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::merge::MergeOutcome;
use super::proposer::{QueueBudget, Taken};
use super::state::{Response, Shard};
use crate::clock::Clock;
use crate::pace::Pace;
use crate::raft::{Group, Proposal, ProposeError};

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
    yields: bool,
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
    /// Queues a merge; its outcome comes through the receiver. If it `yields`, users' writes go
    /// first.
    pub fn push(
        &self,
        merge: pb::Merge,
        yields: bool,
    ) -> Result<oneshot::Receiver<Outcome>, MergeError> {
        let bytes = self.budget.take(merge.encoded_len() + 128);
        let bytes = bytes.ok_or(MergeError::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        let pending = Pending {
            merge,
            yields,
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

/// Makes entries of a shard's merges.
pub(super) struct Merger {
    pub group: Arc<Group<Shard>>,
    pub clock: Clock,
    pub pace: Pace,
}

/// The merges of one entry.
#[derive(Default)]
struct Together {
    merges: Vec<pb::Merge>,
    answers: Vec<(oneshot::Sender<Outcome>, Taken)>,
    bytes: usize,
    yields: bool,
}

impl Together {
    fn push(&mut self, pending: Pending) {
        self.bytes += pending.bytes.bytes();
        self.yields |= pending.yields;
        self.merges.push(pending.merge);
        self.answers.push((pending.answer, pending.bytes));
    }

    /// What yields comes in many parts: one entry of them would keep users' writes waiting.
    fn is_full(&self) -> bool {
        self.yields || self.bytes >= ENTRY_BYTES
    }
}

impl Merger {
    /// Runs it on the current runtime, until `stop`.
    pub fn start(self, budget: QueueBudget, stop: CancellationToken) -> MergeQueue {
        let (sender, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(stop.run_until_cancelled_owned(self.run(waiting)));
        MergeQueue { sender, budget }
    }

    async fn run(self, mut waiting: mpsc::Receiver<Pending>) {
        while let Some(first) = waiting.recv().await {
            let mut together = Together::default();
            together.push(first);
            while !together.is_full()
                && let Ok(next) = waiting.try_recv()
            {
                together.push(next);
            }
            self.merge(together).await;
        }
    }

    async fn merge(&self, together: Together) {
        let Together {
            merges, answers, ..
        } = together;
        let result = if together.yields {
            let turn = self.pace.turn().await;
            turn.during(self.propose(merges)).await
        } else {
            self.propose(merges).await
        };
        let failed = match result {
            Ok(Response::Merges(outcomes)) if outcomes.len() == answers.len() => {
                for ((answer, _), outcome) in answers.into_iter().zip(outcomes) {
                    // Whoever sent it may have given up.
                    let _ = answer.send(Ok(outcome));
                }
                return;
            }
            Err(ProposeError::NotLeader { .. }) => MergeError::NotLeader,
            Ok(_) | Err(ProposeError::Unknown) => MergeError::Unknown,
        };
        for (answer, _) in answers {
            let _ = answer.send(Err(failed));
        }
    }

    async fn propose(&self, merges: Vec<pb::Merge>) -> Proposal<Shard> {
        let time = self.clock.now();
        let kind = Some(Command::Merges(pb::Merges { time, merges }));
        self.group.propose(pb::ShardCommand { kind }).await
    }
}
