//! Many clients' writes in one Raft entry.
//!
//! Writes queue up while an entry is under way, and go together in the next one. So the more load,
//! the more writes share an entry and an fsync, and a single client waits for nobody.
//!
//! Clients whose writes were answered together soon send their next ones, though not all at once:
//! without a pause the first of them would get an entry of its own, and the others wait for that. So
//! when several came together last time, as many are waited for, but for a moment only.
//!
//! Room for a new key is good in terms only that this node led when it asked for it (`budget`).
//! That is judged here, and an entry is proposed for the term that it was judged for: leadership
//! may have gone and come back while a write waited.
//!
//! Invariant (unknown fate): a write is answered `NotLeader`, `Overloaded` or `Stopping` only if it
//! entered no log; otherwise with its outcome, or `Unknown`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::state::{Response, Shard};
use super::write::WriteOutcome;
use crate::budget::Reservation;
use crate::clock::Clock;
use crate::raft::{Group, Proposal, ProposeError};

/// How long the writes that are expected are waited for.
const LINGER: Duration = Duration::from_millis(1);
/// Only if so many are expected: a few clients gain nothing by waiting for each other.
const COMPANY: usize = 4;

/// Why a write has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It entered no log: this node doesn't lead the shard.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// It entered no log: too much is waiting.
    #[error("too many writes are waiting")]
    Overloaded,
    /// It entered no log: the node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// It may have happened, or may yet.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Bytes of writes that may wait on this node, over all shards.
#[derive(Clone, Debug)]
pub struct QueueBudget {
    left: Arc<AtomicUsize>,
}

impl QueueBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self {
            left: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let taken = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                left.checked_sub(bytes)
            });
        taken.is_ok().then(|| Taken {
            budget: self.clone(),
            bytes,
        })
    }
}

/// A part of the budget, given back on drop.
pub(super) struct Taken {
    budget: QueueBudget,
    bytes: usize,
}

impl Taken {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

type Outcome = Result<WriteOutcome, WriteError>;

/// A write that waits for its entry.
pub struct Pending {
    write: pb::Write,
    bytes: Taken,
    waiter: Waiter,
}

impl Pending {
    /// Whether it may be proposed in the term that this node leads since `led_since`.
    fn may_go(&self, led_since: std::time::Instant) -> bool {
        let room = self.waiter.room.as_ref();
        room.is_none_or(|room| room.was_asked_since(led_since))
    }
}

/// Who waits for a write, and the room reserved for it. The room is held until the write has
/// ended, not until whoever asked for it has gone.
struct Waiter {
    answer: oneshot::Sender<Outcome>,
    room: Option<Reservation>,
}

impl Waiter {
    fn tell(self, outcome: Outcome) {
        if let (Some(room), true) = (self.room, leaves_room(&outcome)) {
            room.unused();
        }
        // Whoever asked may have given up.
        let _ = self.answer.send(outcome);
    }
}

/// Whether a write that ended so took no room: nothing is counted that wasn't before.
fn leaves_room(outcome: &Outcome) -> bool {
    match outcome {
        Ok(WriteOutcome::Written(written)) => written.existed,
        Ok(WriteOutcome::ConditionFailed | WriteOutcome::NoRoom | WriteOutcome::BucketGone)
        | Err(WriteError::NotLeader | WriteError::Overloaded | WriteError::Stopping) => true,
        Err(WriteError::Unknown) => false,
    }
}

/// The way into the queue.
#[derive(Clone)]
pub struct Queue {
    sender: mpsc::Sender<Pending>,
    budget: QueueBudget,
}

impl Queue {
    /// Queues a write; its outcome comes through the receiver, which fails if the outcome can't
    /// be known.
    pub fn push(
        &self,
        write: pb::Write,
        room: Option<Reservation>,
    ) -> Result<oneshot::Receiver<Outcome>, WriteError> {
        let bytes = self
            .budget
            .take(size_of(&write))
            .ok_or(WriteError::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        let waiter = Waiter { answer, room };
        self.sender
            .try_send(Pending {
                write,
                bytes,
                waiter,
            })
            .map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => WriteError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => WriteError::Stopping,
            })?;
        Ok(outcome)
    }
}

fn size_of(write: &pb::Write) -> usize {
    let value = match &write.op {
        Some(pb::write::Op::Put(put)) => put.value.len() + put.content_type.len(),
        Some(pb::write::Op::Delete(_)) | None => 0,
    };
    // The rest is what the message and its place in the queue take.
    write.key.len() + value + 128
}

/// Bounds of what goes into one entry, and of entries under way.
#[derive(Clone, Debug)]
pub struct BatchSettings {
    /// Writes that may wait per shard.
    pub queue: usize,
    /// Writes in one entry.
    pub writes: usize,
    /// Bytes of writes in one entry.
    pub bytes: usize,
    /// Entries of writes under way per shard.
    pub in_flight: usize,
}

/// Starts a shard's proposer on the current runtime. It ends when `group` has stopped taking
/// writes and the queue is dropped, or when `stop` is called.
pub fn start(
    group: Arc<Group<Shard>>,
    clock: Clock,
    settings: BatchSettings,
    budget: QueueBudget,
    stop: tokio_util::sync::CancellationToken,
) -> Queue {
    let (sender, receiver) = mpsc::channel(settings.queue);
    let proposer = Proposer {
        group,
        clock,
        settings,
        receiver,
        expected: 0,
    };
    tokio::spawn(proposer.run(stop));
    Queue { sender, budget }
}

/// The writes of one entry.
#[derive(Default)]
struct Batch {
    writes: Vec<Pending>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, pending: Pending) {
        self.bytes += pending.bytes.bytes;
        self.writes.push(pending);
    }

    fn is_full(&self, settings: &BatchSettings) -> bool {
        self.writes.len() >= settings.writes || self.bytes >= settings.bytes
    }
}

struct Proposer {
    group: Arc<Group<Shard>>,
    clock: Clock,
    settings: BatchSettings,
    receiver: mpsc::Receiver<Pending>,
    /// How many writes came together last time.
    expected: usize,
}

impl Proposer {
    async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.settings.in_flight));
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                first = self.receiver.recv() => first,
            };
            let (Some(first), Ok(slot)) = (first, slots.clone().acquire_owned().await) else {
                break;
            };
            let batch = self.gather(first).await;
            self.propose(batch, slot).await;
        }
        self.receiver.close();
        while let Some(pending) = self.receiver.recv().await {
            pending.waiter.tell(Err(WriteError::Stopping));
        }
    }

    /// All that waits now, and what is expected soon, within the bounds of an entry.
    async fn gather(&mut self, first: Pending) -> Vec<Pending> {
        let mut batch = Batch::default();
        batch.push(first);
        // Those who are about to write go first, and with it.
        tokio::task::yield_now().await;
        self.take_waiting(&mut batch);
        if self.expected >= COMPANY {
            let until = Instant::now() + LINGER;
            while batch.writes.len() < self.expected && !batch.is_full(&self.settings) {
                let Ok(Some(next)) = timeout_at(until, self.receiver.recv()).await else {
                    break;
                };
                batch.push(next);
                self.take_waiting(&mut batch);
            }
        }
        self.expected = batch.writes.len();
        batch.writes
    }

    fn take_waiting(&mut self, batch: &mut Batch) {
        while !batch.is_full(&self.settings) {
            let Ok(next) = self.receiver.try_recv() else {
                return;
            };
            batch.push(next);
        }
    }

    async fn propose(&self, batch: Vec<Pending>, slot: OwnedSemaphorePermit) {
        let leadership = self.group.leadership();
        let mut writes = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for pending in batch {
            let in_term = leadership.is_some_and(|(_, since)| pending.may_go(since));
            if !in_term {
                pending.waiter.tell(Err(WriteError::NotLeader));
                continue;
            }
            writes.push(pending.write);
            waiting.push((pending.waiter, pending.bytes));
        }
        let Some((term, _)) = leadership.filter(|_| !writes.is_empty()) else {
            return;
        };
        let batch = pb::WriteBatch {
            time: self.clock.now(),
            writes,
        };
        let command = pb::ShardCommand {
            kind: Some(Command::Writes(batch)),
        };
        let done = move |result: Proposal<Shard>| {
            drop(slot);
            answer(waiting, result);
        };
        self.group.propose_in(term, command, done).await;
    }
}

fn answer(waiting: Vec<(Waiter, Taken)>, result: Proposal<Shard>) {
    let failed = match result {
        Ok(Response::Writes(outcomes)) if outcomes.len() == waiting.len() => {
            for ((waiter, _), outcome) in waiting.into_iter().zip(outcomes) {
                waiter.tell(Ok(outcome));
            }
            return;
        }
        Ok(
            Response::Writes(_)
            | Response::Merges(_)
            | Response::Done
            | Response::Levelled { .. }
            | Response::Expired { .. },
        )
        | Err(ProposeError::Unknown) => WriteError::Unknown,
        Err(ProposeError::NotLeader { .. }) => WriteError::NotLeader,
    };
    for (waiter, _) in waiting {
        waiter.tell(Err(failed.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_refuses_what_is_beyond_it_and_takes_back() {
        let budget = QueueBudget::new(100);
        let taken = budget.take(60).unwrap();
        assert!(budget.take(60).is_none());
        drop(taken);
        assert!(budget.take(100).is_some());
    }
}
