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

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::merge::MergeOutcome;
use super::proposer::{QueueBudget, Taken};
use super::state::{Response, Shard};
use crate::clock::Clock;
use crate::pace::Pace;
use crate::raft::{Group, Proposal, ProposeError};

/// Maximum number of waiting merges per shard; their bytes are bounded over all shards.
const QUEUE: usize = 1024;
/// Approximate maximum bytes of merges in one entry.
const ENTRY_BYTES: usize = 1 << 20;

/// Maximum time that a merge waits for a background permit: its sender waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Maximum time of a proposal for which the place in the scheduler's queue is kept.
const LONG: Duration = Duration::from_secs(1);

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

type Outcome = Result<MergeOutcome, MergeError>;

pub(super) struct Pending {
    merge: pb::Merge,
    yields: bool,
    since: Instant,
    bytes: Taken,
    answer: oneshot::Sender<Outcome>,
}

/// Sending end of a shard's merge queue.
#[derive(Clone)]
pub(super) struct MergeQueue {
    sender: mpsc::Sender<Pending>,
    budget: QueueBudget,
}

impl MergeQueue {
    /// Enqueues a merge. The receiver yields its outcome. A merge `is_background` if users' writes
    /// have priority over it.
    pub fn push(
        &self,
        merge: pb::Merge,
        is_background: bool,
    ) -> Result<oneshot::Receiver<Outcome>, MergeError> {
        let bytes = self.budget.take(merge.encoded_len() + 128);
        let bytes = bytes.ok_or(MergeError::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        let pending = Pending {
            merge,
            yields: is_background,
            since: Instant::now(),
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

/// Proposes a shard's merges in batches.
pub(super) struct Merger {
    pub group: Arc<Group<Shard>>,
    pub clock: Clock,
    pub pace: Pace,
}

/// Merges of one entry.
#[derive(Default)]
struct Together {
    merges: Vec<pb::Merge>,
    answers: Vec<(oneshot::Sender<Outcome>, Taken)>,
    bytes: usize,
}

impl Together {
    fn push(&mut self, pending: Pending) {
        self.bytes += pending.bytes.bytes();
        self.merges.push(pending.merge);
        self.answers.push((pending.answer, pending.bytes));
    }

    fn is_full(&self) -> bool {
        self.bytes >= ENTRY_BYTES
    }
}

/// Merges that wait for an entry.
#[derive(Default)]
struct Backlog(VecDeque<Pending>);

impl Backlog {
    /// Takes merges that aren't background work, up to an entry's size: a region's changes keep
    /// their order, but need not wait for those of another region that is behind.
    fn take_prompt(&mut self) -> Together {
        let (mut batch, mut rest) = (Together::default(), VecDeque::new());
        let mut deferred_origins = Vec::new();
        while let Some(pending) = self.0.pop_front() {
            let origin = pending.merge.origin;
            if pending.yields && !deferred_origins.contains(&origin) {
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
    fn take_first(&mut self) -> Together {
        let mut batch = Together::default();
        if let Some(first) = self.0.pop_front() {
            batch.push(first);
        }
        batch
    }
}

impl Merger {
    /// Starts it on the current runtime. It ends when `stop` is cancelled.
    pub fn start(self, budget: QueueBudget, stop: CancellationToken) -> MergeQueue {
        let (sender, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(stop.run_until_cancelled_owned(self.run(waiting)));
        MergeQueue { sender, budget }
    }

    async fn run(self, mut waiting: mpsc::Receiver<Pending>) {
        let mut backlog = Backlog::default();
        // Kept while other merges pass, so that the place in the scheduler's queue is kept, too.
        let mut permit = None;
        loop {
            while backlog.0.len() < QUEUE
                && let Ok(next) = waiting.try_recv()
            {
                backlog.0.push_back(next);
            }
            let prompt = backlog.take_prompt();
            let (has_prompt, has_more_prompt) = (!prompt.merges.is_empty(), prompt.is_full());
            if has_prompt {
                self.merge_now(prompt, &mut permit).await;
            }
            let first = backlog.0.front().filter(|first| first.yields);
            let Some(deadline) = first.map(|first| first.since + PATIENCE) else {
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
            let next_permit = permit.get_or_insert_with(|| Box::pin(self.pace.turn()));
            tokio::select! {
                biased;
                acquired = next_permit => {
                    permit = None;
                    let first = backlog.take_first();
                    let result = acquired.during(self.propose(first.merges)).await;
                    answer(first.answers, result);
                }
                () = tokio::time::sleep_until(deadline) => {
                    self.merge_now(backlog.take_first(), &mut permit).await;
                }
                Some(next) = waiting.recv(), if backlog.0.len() < QUEUE => {
                    backlog.0.push_back(next);
                }
                () = std::future::ready(()), if has_more_prompt => {}
            }
        }
    }

    /// Proposes merges without a permit. If that takes long, the place in the scheduler's queue is
    /// given up: it would block the other shards for nothing.
    async fn merge_now<T>(&self, batch: Together, permit: &mut Option<T>) {
        let mut proposal = std::pin::pin!(self.propose(batch.merges));
        let result = match tokio::time::timeout(LONG, &mut proposal).await {
            Ok(result) => result,
            Err(_) => {
                *permit = None;
                proposal.await
            }
        };
        answer(batch.answers, result);
    }

    async fn propose(&self, merges: Vec<pb::Merge>) -> Proposal<Shard> {
        let time = self.clock.now();
        let kind = Some(Command::Merges(pb::Merges { time, merges }));
        self.group.propose(pb::ShardCommand { kind }).await
    }
}

fn answer(answers: Vec<(oneshot::Sender<Outcome>, Taken)>, result: Proposal<Shard>) {
    // The sender may have stopped waiting.
    let failed = match result {
        Ok(Response::Merges(outcomes)) if outcomes.len() == answers.len() => {
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

    fn pending(budget: &QueueBudget, (origin, to, is_background): (u32, u64, bool)) -> Pending {
        Pending {
            merge: pb::Merge {
                origin,
                to,
                ..Default::default()
            },
            yields: is_background,
            since: Instant::now(),
            bytes: budget.take(1).unwrap(),
            answer: oneshot::channel().0,
        }
    }

    fn taken(batch: &Together) -> Vec<(u32, u64)> {
        let merges = batch.merges.iter();
        merges.map(|merge| (merge.origin, merge.to)).collect()
    }

    #[test]
    fn prompt_merges_pass_background_merges_but_none_of_their_own_region() {
        let budget = QueueBudget::new(100);
        let waiting = [
            (1, 1, false),
            (1, 2, true),
            (2, 1, false),
            (1, 3, true),
            (1, 4, false),
            (2, 2, false),
        ];
        let waiting = waiting.into_iter().map(|it| pending(&budget, it));
        let mut backlog = Backlog(waiting.collect());
        assert_eq!(taken(&backlog.take_prompt()), [(1, 1), (2, 1), (2, 2)]);
        assert_eq!(taken(&backlog.take_prompt()), []);
        assert_eq!(taken(&backlog.take_first()), [(1, 2)]);
        assert_eq!(taken(&backlog.take_prompt()), []);
        assert_eq!(taken(&backlog.take_first()), [(1, 3)]);
        assert_eq!(taken(&backlog.take_prompt()), [(1, 4)]);
        assert_eq!(taken(&backlog.take_first()), []);
    }
}
