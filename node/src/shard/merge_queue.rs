//! Batches merges of other regions' changes into Raft entries.
//!
//! Waiting merges share the next entry; those of one region keep their order of arrival.
//! Invariant: a merge that is answered was applied, or refused by the state as a whole; one that
//! isn't answered is sent again.
//!
//! A region that was unreachable receives more than it can apply at once while it serves: those
//! merges are background work, admitted over all shards by the background scheduler (`background`),
//! and merges of other regions pass them.

use std::collections::VecDeque;
use std::sync::Arc;

use cloudkv_common::byte_budget::{ByteBudget, BytePermit};
use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::response::{MergeOutcome, ShardResponse};
use super::state_machine::Shard;
use crate::background::BackgroundScheduler;
use crate::clock::Clock;
use crate::raft::{Group, ProposalResult, ProposeError};

/// Maximum number of waiting merges per shard; their bytes are bounded over all shards.
const MAX_QUEUED_MERGES: usize = 1024;
/// Approximate maximum bytes of merges in one entry.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// Maximum time that a merge waits for a background permit: its sender waits for an answer.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time of a proposal for which the place in the scheduler's queue is kept.
const SLOW_ENTRY_TIMEOUT: Duration = Duration::from_secs(1);

/// Error of a merge that has no outcome. It can be sent again: nothing is applied twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// This node doesn't lead the shard.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// Too many merges or bytes are waiting.
    #[error("too many merges are waiting")]
    Overloaded,
    /// It may have been applied, or not.
    #[error("the outcome is unknown")]
    Unknown,
}

type MergeResult = Result<MergeOutcome, MergeError>;

pub(super) struct PendingMerge {
    merge: pb::Merge,
    is_background: bool,
    queued_at: Instant,
    permit: BytePermit,
    responder: oneshot::Sender<MergeResult>,
}

/// Sending end of a shard's merge queue.
#[derive(Clone)]
pub(super) struct MergeQueue {
    sender: mpsc::Sender<PendingMerge>,
    budget: ByteBudget,
}

impl MergeQueue {
    /// Enqueues a merge. The receiver yields its outcome. A merge `is_background` if users' writes
    /// have priority over it.
    pub(super) fn push(
        &self,
        merge: pb::Merge,
        is_background: bool,
    ) -> Result<oneshot::Receiver<MergeResult>, MergeError> {
        let bytes = self.budget.try_acquire(merge.encoded_len() + 128);
        let bytes = bytes.ok_or(MergeError::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        let pending = PendingMerge {
            merge,
            is_background,
            queued_at: Instant::now(),
            permit: bytes,
            responder: answer,
        };
        match self.sender.try_send(pending) {
            Ok(()) => Ok(outcome),
            Err(mpsc::error::TrySendError::Full(_)) => Err(MergeError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(MergeError::NotLeader),
        }
    }
}

/// Proposes a shard's merges in batches.
pub(super) struct MergeProposer {
    pub group: Arc<Group<Shard>>,
    pub clock: Clock,
    pub scheduler: BackgroundScheduler,
}

/// Merges of one entry.
#[derive(Default)]
struct MergeBatch {
    merges: Vec<pb::Merge>,
    responders: Vec<(oneshot::Sender<MergeResult>, BytePermit)>,
    bytes: usize,
}

impl MergeBatch {
    fn push(&mut self, pending: PendingMerge) {
        self.bytes += pending.permit.bytes();
        self.merges.push(pending.merge);
        self.responders.push((pending.responder, pending.permit));
    }

    fn is_full(&self) -> bool {
        self.bytes >= MAX_ENTRY_BYTES
    }
}

/// Merges that wait for an entry.
#[derive(Default)]
struct PendingMerges(VecDeque<PendingMerge>);

impl PendingMerges {
    /// Takes merges that aren't background work, up to an entry's size: a region's changes keep
    /// their order, but need not wait for those of another region that is behind.
    fn take_prompt(&mut self) -> MergeBatch {
        let (mut batch, mut rest) = (MergeBatch::default(), VecDeque::new());
        let mut deferred_origins = Vec::new();
        while let Some(pending) = self.0.pop_front() {
            let origin = pending.merge.origin;
            if pending.is_background && !deferred_origins.contains(&origin) {
                deferred_origins.push(origin);
            }
            if deferred_origins.contains(&origin) || batch.is_full() {
                rest.push_back(pending);
            } else {
                batch.push(pending);
            }
        }
        self.0 = rest;
        batch
    }

    /// Takes the oldest merge: alone, since many background merges in one entry would delay users'
    /// writes.
    fn take_oldest(&mut self) -> MergeBatch {
        let mut batch = MergeBatch::default();
        if let Some(first) = self.0.pop_front() {
            batch.push(first);
        }
        batch
    }
}

impl MergeProposer {
    /// Starts it on the current runtime. It ends when `stop` is cancelled.
    pub(super) fn start(self, budget: ByteBudget, stop: CancellationToken) -> MergeQueue {
        let (sender, waiting) = mpsc::channel(MAX_QUEUED_MERGES);
        tokio::spawn(stop.run_until_cancelled_owned(self.run(waiting)));
        MergeQueue { sender, budget }
    }

    async fn run(self, mut waiting: mpsc::Receiver<PendingMerge>) {
        let mut backlog = PendingMerges::default();
        // Kept while other merges pass, so that the place in the scheduler's queue is kept, too.
        let mut permit = None;
        loop {
            while backlog.0.len() < MAX_QUEUED_MERGES
                && let Ok(next) = waiting.try_recv()
            {
                backlog.0.push_back(next);
            }
            let prompt = backlog.take_prompt();
            let (has_prompt, has_more_prompt) = (!prompt.merges.is_empty(), prompt.is_full());
            if has_prompt {
                self.propose_now(prompt, &mut permit).await;
            }
            let first = backlog.0.front().filter(|first| first.is_background);
            let Some(deadline) = first.map(|first| first.queued_at + PERMIT_TIMEOUT) else {
                // A permit that nobody polls for would block the other shards.
                permit = None;
                if backlog.0.is_empty() && !has_prompt {
                    let Some(first) = waiting.recv().await else {
                        return;
                    };
                    backlog.0.push_back(first);
                }
                continue;
            };
            let next_permit = permit.get_or_insert_with(|| Box::pin(self.scheduler.acquire()));
            tokio::select! {
                biased;
                acquired = next_permit => {
                    permit = None;
                    let first = backlog.take_oldest();
                    let result = acquired.run(self.propose(first.merges)).await;
                    respond_all(first.responders, result);
                }
                () = tokio::time::sleep_until(deadline) => {
                    self.propose_now(backlog.take_oldest(), &mut permit).await;
                }
                Some(next) = waiting.recv(), if backlog.0.len() < MAX_QUEUED_MERGES => {
                    backlog.0.push_back(next);
                }
                () = std::future::ready(()), if has_more_prompt => {}
            }
        }
    }

    /// Proposes merges without a permit. If that takes long, the place in the scheduler's queue is
    /// given up: it would block the other shards for nothing.
    async fn propose_now<T>(&self, batch: MergeBatch, permit: &mut Option<T>) {
        let mut proposal = std::pin::pin!(self.propose(batch.merges));
        let result = match tokio::time::timeout(SLOW_ENTRY_TIMEOUT, &mut proposal).await {
            Ok(result) => result,
            Err(_) => {
                *permit = None;
                proposal.await
            }
        };
        respond_all(batch.responders, result);
    }

    async fn propose(&self, merges: Vec<pb::Merge>) -> ProposalResult<Shard> {
        let time = self.clock.now();
        let kind = Some(Command::Merges(pb::Merges { time, merges }));
        self.group.propose(pb::ShardCommand { kind }).await
    }
}

fn respond_all(
    answers: Vec<(oneshot::Sender<MergeResult>, BytePermit)>,
    result: ProposalResult<Shard>,
) {
    // The sender may have stopped waiting.
    let failed = match result {
        Ok(ShardResponse::Merges(outcomes)) if outcomes.len() == answers.len() => {
            for ((answer, _), outcome) in answers.into_iter().zip(outcomes) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pending_merge(
        budget: &ByteBudget,
        (origin, to, is_background): (u32, u64, bool),
    ) -> PendingMerge {
        PendingMerge {
            merge: pb::Merge {
                origin,
                to,
                ..Default::default()
            },
            is_background,
            queued_at: Instant::now(),
            permit: budget.try_acquire(1).unwrap(),
            responder: oneshot::channel().0,
        }
    }

    fn positions(batch: &MergeBatch) -> Vec<(u32, u64)> {
        let merges = batch.merges.iter();
        merges.map(|merge| (merge.origin, merge.to)).collect()
    }

    #[test]
    fn prompt_merges_pass_background_merges_but_none_of_their_own_region() {
        let budget = ByteBudget::new(100);
        let waiting = [
            (1, 1, false),
            (1, 2, true),
            (2, 1, false),
            (1, 3, true),
            (1, 4, false),
            (2, 2, false),
        ];
        let waiting = waiting.into_iter().map(|it| pending_merge(&budget, it));
        let mut backlog = PendingMerges(waiting.collect());
        assert_eq!(positions(&backlog.take_prompt()), [(1, 1), (2, 1), (2, 2)]);
        assert_eq!(positions(&backlog.take_prompt()), []);
        assert_eq!(positions(&backlog.take_oldest()), [(1, 2)]);
        assert_eq!(positions(&backlog.take_prompt()), []);
        assert_eq!(positions(&backlog.take_oldest()), [(1, 3)]);
        assert_eq!(positions(&backlog.take_prompt()), [(1, 4)]);
        assert_eq!(positions(&backlog.take_oldest()), []);
    }
}
