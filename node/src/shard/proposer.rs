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
use std::time::Duration;

use cloudkv_common::byte_budget::{ByteBudget, BytePermit};
use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::response::{ShardResponse, WriteOutcome};
use super::state_machine::Shard;
use crate::clock::Clock;
use crate::quota::Reservation;
use crate::raft::{Group, ProposalResult, ProposeError};

/// Maximum time that a batch waits for expected writes.
const BATCH_LINGER: Duration = Duration::from_millis(1);
/// Minimum number of expected writes for which a batch lingers: a few clients gain nothing by
/// waiting for each other.
const MIN_LINGER_WRITES: usize = 4;

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

type WriteResult = Result<WriteOutcome, WriteError>;

/// Write that waits for its entry.
pub(super) struct PendingWrite {
    write: pb::Write,
    permit: BytePermit,
    waiter: Waiter,
}

impl PendingWrite {
    /// Returns whether it may be proposed in the term that this node has led since `led_since`.
    fn may_propose(&self, led_since: std::time::Instant) -> bool {
        let reservation = self.waiter.reservation.as_ref();
        reservation.is_none_or(|reservation| reservation.was_requested_since(led_since))
    }
}

/// Waiting caller of a write, and the quota reserved for the write. The reservation is kept until
/// the write has ended, even if the caller stops waiting earlier.
struct Waiter {
    responder: oneshot::Sender<WriteResult>,
    reservation: Option<Reservation>,
}

impl Waiter {
    fn respond(self, outcome: WriteResult) {
        if let (Some(reservation), true) = (self.reservation, leaves_quota_unused(&outcome)) {
            reservation.release();
        }
        // The caller may have stopped waiting.
        let _ = self.responder.send(outcome);
    }
}

/// Returns whether a write with this outcome used none of its reserved quota: no key was added.
fn leaves_quota_unused(outcome: &WriteResult) -> bool {
    match outcome {
        Ok(WriteOutcome::Written(written)) => written.existed,
        Ok(
            WriteOutcome::ConditionFailed
            | WriteOutcome::KeyMissing
            | WriteOutcome::NoQuota
            | WriteOutcome::BucketDropped,
        )
        | Err(WriteError::NotLeader | WriteError::Overloaded | WriteError::Stopping) => true,
        Err(WriteError::Unknown) => false,
    }
}

/// Sending end of a shard's write queue.
#[derive(Clone)]
pub(super) struct WriteQueue {
    sender: mpsc::Sender<PendingWrite>,
    budget: ByteBudget,
}

impl WriteQueue {
    /// Enqueues a write. The receiver yields its outcome, and fails if the outcome can't be known.
    pub(super) fn push(
        &self,
        write: pb::Write,
        reservation: Option<Reservation>,
    ) -> Result<oneshot::Receiver<WriteResult>, WriteError> {
        let (answer, outcome) = oneshot::channel();
        let waiter = Waiter {
            responder: answer,
            reservation,
        };
        // A write that isn't queued is answered at once, which releases its reservation.
        let Some(bytes) = self.budget.try_acquire(queued_bytes(&write)) else {
            waiter.respond(Err(WriteError::Overloaded));
            return Err(WriteError::Overloaded);
        };
        let pending = PendingWrite {
            write,
            permit: bytes,
            waiter,
        };
        let (refused, error) = match self.sender.try_send(pending) {
            Ok(()) => return Ok(outcome),
            Err(mpsc::error::TrySendError::Full(refused)) => (refused, WriteError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(refused)) => (refused, WriteError::Stopping),
        };
        refused.waiter.respond(Err(error.clone()));
        Err(error)
    }
}

fn queued_bytes(write: &pb::Write) -> usize {
    let value = match &write.op {
        Some(pb::write::Op::Put(put)) => {
            put.value.len() + put.content_type.len() + put.metadata.len()
        }
        Some(pb::write::Op::Touch(touch)) => touch.metadata.as_ref().map_or(0, bytes::Bytes::len),
        Some(pb::write::Op::Delete(_)) | None => 0,
    };
    // The constant is an estimate of the message's and the queue slot's own size.
    write.key.len() + value + 128
}

/// Bounds of one entry's writes, and of entries in flight.
#[derive(Clone, Debug)]
pub struct BatchSettings {
    /// Maximum number of waiting writes per shard.
    pub max_queued: usize,
    /// Maximum number of writes in one entry.
    pub max_writes: usize,
    /// Maximum bytes of writes in one entry.
    pub max_bytes: usize,
    /// Maximum number of entries of writes in flight per shard.
    pub max_in_flight: usize,
}

/// Starts a shard's proposer on the current runtime. It ends when the queue is dropped, or when
/// `stop` is cancelled.
pub(super) fn start(
    group: Arc<Group<Shard>>,
    clock: Clock,
    settings: BatchSettings,
    budget: ByteBudget,
    stop: tokio_util::sync::CancellationToken,
) -> WriteQueue {
    let (sender, receiver) = mpsc::channel(settings.max_queued);
    let proposer = Proposer {
        group,
        clock,
        settings,
        receiver,
        last_batch_len: 0,
    };
    tokio::spawn(proposer.run(stop));
    WriteQueue { sender, budget }
}

/// Writes of one entry.
#[derive(Default)]
struct PendingBatch {
    writes: Vec<PendingWrite>,
    bytes: usize,
}

impl PendingBatch {
    fn push(&mut self, pending: PendingWrite) {
        self.bytes += pending.permit.bytes();
        self.writes.push(pending);
    }

    fn is_full(&self, settings: &BatchSettings) -> bool {
        self.writes.len() >= settings.max_writes || self.bytes >= settings.max_bytes
    }
}

struct Proposer {
    group: Arc<Group<Shard>>,
    clock: Clock,
    settings: BatchSettings,
    receiver: mpsc::Receiver<PendingWrite>,
    /// Number of writes in the last batch.
    last_batch_len: usize,
}

impl Proposer {
    async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.settings.max_in_flight));
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
            pending.waiter.respond(Err(WriteError::Stopping));
        }
    }

    /// Collects the writes that wait now, and those expected soon, within the bounds of an entry.
    async fn gather(&mut self, first: PendingWrite) -> Vec<PendingWrite> {
        let mut batch = PendingBatch::default();
        batch.push(first);
        // Lets tasks that are about to write run first, so that their writes join this batch.
        tokio::task::yield_now().await;
        self.drain_waiting(&mut batch);
        if self.last_batch_len >= MIN_LINGER_WRITES {
            let deadline = Instant::now() + BATCH_LINGER;
            while batch.writes.len() < self.last_batch_len && !batch.is_full(&self.settings) {
                let Ok(Some(next)) = timeout_at(deadline, self.receiver.recv()).await else {
                    break;
                };
                batch.push(next);
                self.drain_waiting(&mut batch);
            }
        }
        self.last_batch_len = batch.writes.len();
        batch.writes
    }

    fn drain_waiting(&mut self, batch: &mut PendingBatch) {
        while !batch.is_full(&self.settings) {
            let Ok(next) = self.receiver.try_recv() else {
                return;
            };
            batch.push(next);
        }
    }

    async fn propose(&self, batch: Vec<PendingWrite>, slot: OwnedSemaphorePermit) {
        let leadership = self.group.leadership();
        let mut writes = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for pending in batch {
            let may_propose = leadership.is_some_and(|(_, since)| pending.may_propose(since));
            if !may_propose {
                pending.waiter.respond(Err(WriteError::NotLeader));
                continue;
            }
            writes.push(pending.write);
            waiting.push((pending.waiter, pending.permit));
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
        let done = move |result: ProposalResult<Shard>| {
            drop(slot);
            respond_all(waiting, result);
        };
        self.group.propose_in_term(term, command, done).await;
    }
}

fn respond_all(waiting: Vec<(Waiter, BytePermit)>, result: ProposalResult<Shard>) {
    let failed = match result {
        Ok(ShardResponse::Writes(outcomes)) if outcomes.len() == waiting.len() => {
            for ((waiter, _), outcome) in waiting.into_iter().zip(outcomes) {
                waiter.respond(Ok(outcome));
            }
            return;
        }
        Ok(
            ShardResponse::Writes(_)
            | ShardResponse::Merges(_)
            | ShardResponse::Done
            | ShardResponse::Reconciled { .. }
            | ShardResponse::Expired { .. },
        )
        | Err(ProposeError::Unknown) => WriteError::Unknown,
        Err(ProposeError::NotLeader { .. }) => WriteError::NotLeader,
    };
    for (waiter, _) in waiting {
        waiter.respond(Err(failed.clone()));
    }
}
