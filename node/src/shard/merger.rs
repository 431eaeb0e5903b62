//! Many merges of other regions in one Raft entry.
//!
//! Merges that wait go together in the next entry; those of one region in the order in which they
//! came. Invariant: a merge that is answered was applied, or refused by the state as a whole; what
//! isn't answered its sender sends again.
//!
//! A region that was away gets more than it can take at once while it serves: those merges take turns
//! over all shards, at a pace (`pace`), and those of other regions pass them.

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

/// Merges that may wait per shard; their bytes are bounded over all shards.
const QUEUE: usize = 1024;
/// Bytes of merges in one entry, about.
const ENTRY_BYTES: usize = 1 << 20;

/// Time that one waits for its turn: whoever sent it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// An entry that takes longer hangs.
const LONG: Duration = Duration::from_secs(1);

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
    since: Instant,
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

/// What waits for an entry.
#[derive(Default)]
struct Backlog(VecDeque<Pending>);

impl Backlog {
    /// Takes what yields to nothing, up to an entry's size: a region's changes go in their order, but
    /// need not wait for those of another one that was away.
    fn take_prompt(&mut self) -> Together {
        let (mut together, mut later) = (Together::default(), VecDeque::new());
        let mut behind = Vec::new();
        while let Some(pending) = self.0.pop_front() {
            let origin = pending.merge.origin;
            if pending.yields && !behind.contains(&origin) {
                behind.push(origin);
            }
            if behind.contains(&origin) || together.is_full() {
                later.push_back(pending);
            } else {
                together.push(pending);
            }
        }
        self.0 = later;
        together
    }

    /// Takes what came first: alone, for many of those in one entry would keep users' writes waiting.
    fn take_first(&mut self) -> Together {
        let mut together = Together::default();
        if let Some(first) = self.0.pop_front() {
            together.push(first);
        }
        together
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
        let mut backlog = Backlog::default();
        // Kept while other merges go first, so that its place among the shards is.
        let mut turn = None;
        loop {
            while backlog.0.len() < QUEUE
                && let Ok(next) = waiting.try_recv()
            {
                backlog.0.push_back(next);
            }
            let prompt = backlog.take_prompt();
            let (any_prompt, more_prompt) = (!prompt.merges.is_empty(), prompt.is_full());
            if any_prompt {
                self.merge_now(prompt, &mut turn).await;
            }
            let first = backlog.0.front().filter(|first| first.yields);
            let Some(until) = first.map(|first| first.since + PATIENCE) else {
                // One that nobody looks at would keep the other shards waiting.
                turn = None;
                if backlog.0.is_empty() && !any_prompt {
                    let Some(first) = waiting.recv().await else {
                        return;
                    };
                    backlog.0.push_back(first);
                }
                continue;
            };
            let next_turn = turn.get_or_insert_with(|| Box::pin(self.pace.turn()));
            tokio::select! {
                biased;
                now = next_turn => {
                    turn = None;
                    let first = backlog.take_first();
                    let result = now.during(self.propose(first.merges)).await;
                    answer(first.answers, result);
                }
                () = tokio::time::sleep_until(until) => {
                    self.merge_now(backlog.take_first(), &mut turn).await;
                }
                Some(next) = waiting.recv(), if backlog.0.len() < QUEUE => {
                    backlog.0.push_back(next);
                }
                () = std::future::ready(()), if more_prompt => {}
            }
        }
    }

    /// Proposes merges without a turn; if that takes long, the one that is waited for is given up:
    /// the other shards would wait for nothing.
    async fn merge_now<T>(&self, together: Together, turn: &mut Option<T>) {
        let mut proposal = std::pin::pin!(self.propose(together.merges));
        let result = match tokio::time::timeout(LONG, &mut proposal).await {
            Ok(result) => result,
            Err(_) => {
                *turn = None;
                proposal.await
            }
        };
        answer(together.answers, result);
    }

    async fn propose(&self, merges: Vec<pb::Merge>) -> Proposal<Shard> {
        let time = self.clock.now();
        let kind = Some(Command::Merges(pb::Merges { time, merges }));
        self.group.propose(pb::ShardCommand { kind }).await
    }
}

fn answer(answers: Vec<(oneshot::Sender<Outcome>, Taken)>, result: Proposal<Shard>) {
    // Whoever sent one may have given up.
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

    fn pending(budget: &QueueBudget, (origin, to, yields): (u32, u64, bool)) -> Pending {
        Pending {
            merge: pb::Merge {
                origin,
                to,
                ..Default::default()
            },
            yields,
            since: Instant::now(),
            bytes: budget.take(1).unwrap(),
            answer: oneshot::channel().0,
        }
    }

    fn taken(together: &Together) -> Vec<(u32, u64)> {
        let merges = together.merges.iter();
        merges.map(|merge| (merge.origin, merge.to)).collect()
    }

    #[test]
    fn prompt_merges_pass_those_that_yield_but_none_of_their_own_region() {
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
