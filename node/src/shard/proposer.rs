//! Batches clients' writes into Raft entries.
//!
//! Writes queue up while an entry is in flight, and share the next one. So the higher the load, the
//! more writes share an entry and an fsync, and a single client never waits for others.
//!
//! Clients whose writes were answered together send their next ones soon after, though not all at
//! once: without a linger the first of them would get an entry of its own, and the others would
//! wait for it. So if the last batch had several writes, the next one lingers briefly for as many.
//!
//! A quota reservation for a new key is valid only in terms that this node led when it requested
//! the quota (`quota`). That is checked here, and an entry is proposed for the term that was
//! checked: leadership may have been lost and regained while a write waited.
//!
//! Invariant (unknown outcome): a write is answered `NotLeader`, `Overloaded` or `Stopping` only if
//! it entered no log; otherwise with its outcome, or `Unknown`.

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

/// Maximum time that a batch waits for expected writes.
const LINGER: Duration = Duration::from_millis(1);
/// Minimum number of expected writes for which a batch lingers: a few clients gain nothing by
/// waiting for each other.
const COMPANY: usize = 4;

/// Error of a write that has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It entered no log: this node doesn't lead the shard.
    #[error("this node does not lead the shard")]
    NotLeader,
    /// It entered no log: too many writes or bytes are waiting.
    #[error("too many writes are waiting")]
    Overloaded,
    /// It entered no log: the node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// It may have been applied, or may be later.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Bound on the bytes that may wait in queues on this node, over all shards.
#[derive(Clone, Debug)]
pub struct QueueBudget {
    left: Arc<AtomicUsize>,
}

impl QueueBudget {
    /// Creates a budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self {
            left: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let acquired = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                left.checked_sub(bytes)
            });
        acquired.is_ok().then(|| Taken {
            budget: self.clone(),
            bytes,
        })
    }
}

/// Bytes acquired from a budget, released on drop.
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

/// Write that waits for its entry.
pub struct Pending {
    write: pb::Write,
    bytes: Taken,
    waiter: Waiter,
}

impl Pending {
    /// Returns whether it may be proposed in the term that this node has led since `led_since`.
    fn may_go(&self, led_since: std::time::Instant) -> bool {
        let reservation = self.waiter.room.as_ref();
        reservation.is_none_or(|reservation| reservation.was_asked_since(led_since))
    }
}

/// Waiting caller of a write, and the quota reserved for the write. The reservation is kept until
/// the write has ended, even if the caller stops waiting earlier.
struct Waiter {
    answer: oneshot::Sender<Outcome>,
    room: Option<Reservation>,
}

impl Waiter {
    fn tell(self, outcome: Outcome) {
        if let (Some(reservation), true) = (self.room, leaves_room(&outcome)) {
            reservation.unused();
        }
        // The caller may have stopped waiting.
        let _ = self.answer.send(outcome);
    }
}

/// Returns whether a write with this outcome used none of its reserved quota: no key was added.
fn leaves_room(outcome: &Outcome) -> bool {
    match outcome {
        Ok(WriteOutcome::Written(written)) => written.existed,
        Ok(WriteOutcome::ConditionFailed | WriteOutcome::NoRoom | WriteOutcome::BucketGone)
        | Err(WriteError::NotLeader | WriteError::Overloaded | WriteError::Stopping) => true,
        Err(WriteError::Unknown) => false,
    }
}

/// Sending end of a shard's write queue.
#[derive(Clone)]
pub struct Queue {
    sender: mpsc::Sender<Pending>,
    budget: QueueBudget,
}

impl Queue {
    /// Enqueues a write. The receiver yields its outcome, and fails if the outcome can't be known.
    pub fn push(
        &self,
        write: pb::Write,
        reservation: Option<Reservation>,
    ) -> Result<oneshot::Receiver<Outcome>, WriteError> {
        let bytes = self
            .budget
            .take(size_of(&write))
            .ok_or(WriteError::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        let waiter = Waiter { answer, room: reservation };
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
    // The constant is an estimate of the message's and the queue slot's own size.
    write.key.len() + value + 128
}

/// Bounds of one entry's writes, and of entries in flight.
#[derive(Clone, Debug)]
pub struct BatchSettings {
    /// Maximum number of waiting writes per shard.
    pub queue: usize,
    /// Maximum number of writes in one entry.
    pub writes: usize,
    /// Maximum bytes of writes in one entry.
    pub bytes: usize,
    /// Maximum number of entries of writes in flight per shard.
    pub in_flight: usize,
}

/// Starts a shard's proposer on the current runtime. It ends when the queue is dropped, or when
/// `stop` is cancelled.
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

/// Writes of one entry.
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
    /// Number of writes in the last batch.
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

    /// Collects the writes that wait now, and those expected soon, within the bounds of an entry.
    async fn gather(&mut self, first: Pending) -> Vec<Pending> {
        let mut batch = Batch::default();
        batch.push(first);
        // Lets tasks that are about to write run first, so that their writes join this batch.
        tokio::task::yield_now().await;
        self.take_waiting(&mut batch);
        if self.expected >= COMPANY {
            let deadline = Instant::now() + LINGER;
            while batch.writes.len() < self.expected && !batch.is_full(&self.settings) {
                let Ok(Some(next)) = timeout_at(deadline, self.receiver.recv()).await else {
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
            let may_propose = leadership.is_some_and(|(_, since)| pending.may_go(since));
            if !may_propose {
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
    fn a_budget_refuses_bytes_beyond_its_bound_and_takes_released_ones_back() {
        let budget = QueueBudget::new(100);
        let permit = budget.take(60).unwrap();
        assert!(budget.take(60).is_none());
        drop(permit);
        assert!(budget.take(100).is_some());
    }
}
