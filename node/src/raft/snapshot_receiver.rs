//! Receives snapshots: each is received, verified and installed by one task.
//!
//! A snapshot is received into a generation of its own, which no other task writes into, and is
//! installed by the same task. That task belongs to the group: a lost connection, or a dropped
//! call, ends it only between two chunks. So
//!
//! - rows of two snapshots are never in one generation, and what is installed is what was verified:
//!   the number of its chunks and rows, their digest, and the position that they hold;
//! - one snapshot is received at a time: the newest connection takes over from the previous one,
//!   which stops after the chunk that it is writing, or not at all while it installs;
//! - what was received over a lost connection is kept for [`RESUME_TIMEOUT`]: a sender that still
//!   has the same view resumes behind it;
//! - a sender whose connection was lost while its snapshot was installed, and that calls again,
//!   gets the reply that it would have got then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::snapshot_ack::Kind as Ack;
use cloudkv_proto::v1::snapshot_frame::Kind as Frame;
use futures_util::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::storage::Snapshot;
use openraft::{Raft, SnapshotMeta};
use parking_lot::Mutex as SyncMutex;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::applied_position::read_position;
use super::codec;
use super::replica::Replica;
use super::snapshot::{self, GenerationAllocator, SnapshotChecksum, SnapshotData};
use super::snapshot_transfers::{
    RESUME_TIMEOUT, SnapshotTransfer, SnapshotTransfers, TransferDirection,
};
use super::state_replacement::replace_damaged_state;
use super::types::{LogId, StateMachine, StoredMembership, TypeConfig, Vote};
use crate::rpc::{SnapshotAcks, SnapshotFrames};
use crate::store::keys::{GroupId, Rows};
use crate::store::{StateDb, StoreError};

/// Time without a chunk after which a sender's connection is given up, though it may resume.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum wait for the previous connection to stop.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Receiver of a group's snapshots.
pub(super) struct SnapshotReceiver<M: StateMachine> {
    group: GroupId,
    db: StateDb,
    raft: Raft<TypeConfig<M>, Replica<M>>,
    generations: GenerationAllocator,
    transfers: Arc<SnapshotTransfers>,
    /// Snapshot received so far. The holder of the lock receives, or installs.
    partial: Arc<Mutex<Option<PartialSnapshot>>>,
    /// Last installed snapshot, and the reply to its sender.
    last_installed: SyncMutex<Option<(u64, Vote)>>,
    /// Cancels the reception over the newest connection, between two chunks.
    newest_connection: SyncMutex<CancellationToken>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A snapshot of which some chunks were received.
struct PartialSnapshot {
    transfer: u64,
    position: LogId,
    rows: Rows,
    chunks: u64,
    checksum: SnapshotChecksum,
    /// Time when its last connection ended.
    interrupted_at: Instant,
}

/// Decoded header of a snapshot.
struct SnapshotHeader {
    vote: Vote,
    position: LogId,
    membership: StoredMembership,
    transfer: u64,
    acknowledged: u64,
    is_repair: bool,
}

impl TryFrom<pb::SnapshotHeader> for SnapshotHeader {
    type Error = Status;

    fn try_from(head: pb::SnapshotHeader) -> Result<Self, Status> {
        let incomplete = || Status::invalid_argument("receive snapshot: the header is incomplete");
        let members = head.membership.ok_or_else(incomplete)?;
        let members = codec::stored_membership_from_pb(members)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Self {
            vote: codec::vote_from_pb(head.vote.ok_or_else(incomplete)?),
            position: codec::log_id_from_pb(head.last.ok_or_else(incomplete)?),
            membership: members,
            transfer: head.transfer,
            acknowledged: head.acknowledged,
            is_repair: head.repair,
        })
    }
}

/// Error that ended a reception.
enum ReceiveError {
    /// The sender may resume.
    Resumable(Status),
    /// The received data can't be used.
    Unusable(Status),
}

use ReceiveError::{Resumable, Unusable};

impl From<StoreError> for ReceiveError {
    fn from(error: StoreError) -> Self {
        Unusable(storage_error(error))
    }
}

fn storage_error(error: StoreError) -> Status {
    Status::internal(error.to_string())
}

impl<M: StateMachine> SnapshotReceiver<M> {
    pub(super) fn new(
        group: GroupId,
        db: StateDb,
        raft: Raft<TypeConfig<M>, Replica<M>>,
        generations: GenerationAllocator,
        transfers: Arc<SnapshotTransfers>,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            db,
            raft,
            generations,
            transfers,
            partial: Arc::default(),
            last_installed: SyncMutex::default(),
            newest_connection: SyncMutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Receives a snapshot whose header has arrived, and installs it. Cancel safe: once it was
    /// polled, a task of its own goes on until `frames` end, or the snapshot is installed.
    pub(super) async fn receive(
        self: &Arc<Self>,
        head: pb::SnapshotHeader,
        frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> Result<pb::SnapshotReply, Status> {
        let head = SnapshotHeader::try_from(head)?;
        let receiver = self.clone();
        let task = self
            .tasks
            .spawn(async move { receiver.run(head, frames, acks).await });
        let vote = task
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        Ok(pb::SnapshotReply {
            vote: Some(codec::vote_to_pb(&vote)),
        })
    }

    async fn run(
        &self,
        head: SnapshotHeader,
        frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> Result<Vote, Status> {
        let known = self.raft.metrics().borrow_watched().vote;
        if known > head.vote {
            // A superseded leader learns of it before it sends anything.
            return Ok(known);
        }
        let (mut slot, superseded) = self.take_over().await?;
        if let Some(vote) = self.repeated_reply(&head) {
            return Ok(vote);
        }
        let mut partial = match slot.take() {
            Some(partial) if partial.is_resumed_by(&head) => partial,
            other => {
                self.discard(other).await.map_err(storage_error)?;
                self.begin(&head)?
            }
        };
        let sender = head.vote.leader_id.voted_for;
        let transfer =
            self.transfers
                .begin(TransferDirection::Received, sender, head.position.index);
        transfer.start(partial.chunks, partial.checksum.bytes());
        let received = async {
            self.receive_chunks(&mut partial, &head, frames, &acks, &superseded, &transfer)
                .await?;
            self.check_position(&partial, &head).await
        };
        match received.await {
            Ok(()) => {
                let number = head.transfer;
                let installed = if head.is_repair {
                    self.repair(partial, head).await
                } else {
                    self.install(partial, head).await
                };
                transfer.end(installed.as_ref().err());
                if let Ok(vote) = &installed {
                    *self.last_installed.lock() = Some((number, *vote));
                }
                installed
            }
            Err(Resumable(status)) => {
                partial.interrupted_at = Instant::now();
                *slot = Some(partial);
                transfer.end(Some(&status));
                Err(status)
            }
            Err(Unusable(status)) => {
                transfer.end(Some(&status));
                self.discard(Some(partial)).await.map_err(storage_error)?;
                Err(status)
            }
        }
    }

    /// Takes over from the previous connection, if there is one.
    async fn take_over(
        &self,
    ) -> Result<(OwnedMutexGuard<Option<PartialSnapshot>>, CancellationToken), Status> {
        let superseded = self.stop.child_token();
        let previous = std::mem::replace(&mut *self.newest_connection.lock(), superseded.clone());
        previous.cancel();
        let slot = tokio::time::timeout(TAKEOVER_TIMEOUT, self.partial.clone().lock_owned());
        let busy = |_| Status::resource_exhausted("another snapshot is being installed");
        Ok((slot.await.map_err(busy)?, superseded))
    }

    /// Repeats the reply to a sender that resumes an installed snapshot.
    fn repeated_reply(&self, head: &SnapshotHeader) -> Option<Vote> {
        let installed = *self.last_installed.lock();
        let resumed = installed.filter(|_| head.transfer != 0 && head.acknowledged > 0);
        resumed.and_then(|(transfer, vote)| (transfer == head.transfer).then_some(vote))
    }

    fn begin(&self, head: &SnapshotHeader) -> Result<PartialSnapshot, Status> {
        if head.acknowledged > 0 {
            return Err(Status::failed_precondition(
                "resume snapshot: what was received of it has been discarded",
            ));
        }
        Ok(PartialSnapshot {
            transfer: head.transfer,
            position: head.position,
            rows: self.generations.next(self.group),
            chunks: 0,
            checksum: SnapshotChecksum::default(),
            interrupted_at: Instant::now(),
        })
    }

    /// Writes chunks as they arrive, until all are there and match the sender's checksum.
    async fn receive_chunks(
        &self,
        partial: &mut PartialSnapshot,
        head: &SnapshotHeader,
        mut frames: SnapshotFrames,
        acks: &SnapshotAcks,
        superseded: &CancellationToken,
        transfer: &SnapshotTransfer,
    ) -> Result<(), ReceiveError> {
        send_ack(acks, partial.chunks);
        loop {
            let next = tokio::select! {
                biased;
                () = superseded.cancelled() => {
                    return Err(Resumable(Status::cancelled("a newer connection took over")));
                }
                next = tokio::time::timeout(RECEIVE_TIMEOUT, frames.next()) => next,
            };
            let silent = |_| Resumable(Status::deadline_exceeded("no chunk arrived in time"));
            let lost = || {
                Resumable(Status::cancelled(
                    "the connection ended before the snapshot",
                ))
            };
            let frame = next.map_err(silent)?.ok_or_else(lost)?.map_err(Resumable)?;
            match frame.kind {
                Some(Frame::Chunk(chunk)) => {
                    if head.transfer != 0 && chunk.number != partial.chunks {
                        return Err(Unusable(Status::data_loss("a chunk is missing")));
                    }
                    self.write_chunk(partial, chunk).await?;
                    transfer.advance(partial.chunks, partial.checksum.bytes());
                    send_ack(acks, partial.chunks);
                }
                Some(Frame::Last(sent)) => return partial.checksum.verify(&sent).map_err(Unusable),
                // Sent by a version without digests.
                Some(Frame::End(rows)) if head.transfer == 0 => {
                    let is_complete = rows == partial.checksum.rows();
                    let missing = || Unusable(Status::data_loss("rows are missing"));
                    return is_complete.then_some(()).ok_or_else(missing);
                }
                Some(Frame::Header(_) | Frame::End(_)) | None => {
                    return Err(Unusable(Status::invalid_argument("unknown frame")));
                }
            }
        }
    }

    async fn write_chunk(
        &self,
        partial: &mut PartialSnapshot,
        chunk: pb::SnapshotChunk,
    ) -> Result<(), ReceiveError> {
        partial.checksum.add_chunk(&chunk);
        let (db, rows) = (self.db.clone(), partial.rows);
        let permit = self.transfers.receive_scheduler().acquire().await;
        let write = tokio::task::spawn_blocking(move || snapshot::write_chunk(&db, rows, chunk));
        let written = permit.run(write).await;
        written.map_err(|error| Unusable(Status::internal(error.to_string())))??;
        partial.chunks += 1;
        Ok(())
    }

    /// Verifies that the rows hold the position of the header: Raft relies on it.
    async fn check_position(
        &self,
        partial: &PartialSnapshot,
        head: &SnapshotHeader,
    ) -> Result<(), ReceiveError> {
        let (db, rows) = (self.db.clone(), partial.rows);
        let read = tokio::task::spawn_blocking(move || read_position(&db, rows)).await;
        let (position, _) = read
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| Unusable(Status::internal(error.to_string())))?;
        if position == Some(head.position) {
            return Ok(());
        }
        Err(Unusable(Status::data_loss(
            "verify snapshot: its rows hold another position than its header",
        )))
    }

    async fn install(
        &self,
        partial: PartialSnapshot,
        head: SnapshotHeader,
    ) -> Result<Vote, Status> {
        let rows = partial.rows;
        let meta = SnapshotMeta {
            last_log_id: Some(head.position),
            last_membership: head.membership,
        };
        let received = Snapshot {
            meta,
            snapshot: SnapshotData::received(self.db.clone(), rows),
        };
        let answer = self.raft.install_full_snapshot(head.vote, received).await;
        // If Raft has stopped, the outcome is unknown: the next start removes leftovers.
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        let current = snapshot::current_rows(&self.db, self.group).map_err(storage_error)?;
        if current == rows {
            tracing::info!(
                group = %self.group,
                index = head.position.index,
                bytes = partial.checksum.bytes(),
                "snapshot installed"
            );
        } else {
            // It brought nothing new, or its sender doesn't lead any more.
            self.discard(Some(partial)).await.map_err(storage_error)?;
        }
        Ok(answer.vote)
    }

    /// Replaces this member's damaged state by what was received.
    async fn repair(&self, partial: PartialSnapshot, head: SnapshotHeader) -> Result<Vote, Status> {
        let rows = partial.rows;
        let replaced = replace_damaged_state(&self.raft, self.group, rows).await;
        let current = snapshot::current_rows(&self.db, self.group).map_err(storage_error)?;
        if current != rows {
            self.discard(Some(partial)).await.map_err(storage_error)?;
        }
        replaced.map(|()| head.vote)
    }

    /// Removes a partial snapshot.
    async fn discard(&self, partial: Option<PartialSnapshot>) -> Result<(), StoreError> {
        let Some(partial) = partial else {
            return Ok(());
        };
        let db = self.db.clone();
        let removed =
            tokio::task::spawn_blocking(move || snapshot::remove_generation(&db, partial.rows));
        // It fails to run only when the runtime shuts down: the next start removes leftovers.
        removed.await.unwrap_or(Ok(()))
    }

    /// Removes a partial snapshot that its sender hasn't resumed in time.
    pub(super) async fn discard_expired(&self) {
        let Ok(mut slot) = self.partial.clone().try_lock_owned() else {
            return;
        };
        if slot
            .as_ref()
            .is_some_and(|partial| partial.interrupted_at.elapsed() > RESUME_TIMEOUT)
            && let Err(error) = self.discard(slot.take()).await
        {
            tracing::warn!(group = %self.group, %error, "partial snapshot not removed");
        }
    }

    /// Cancels the current reception, between two chunks.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl PartialSnapshot {
    fn is_resumed_by(&self, head: &SnapshotHeader) -> bool {
        head.transfer != 0 && (self.transfer, self.position) == (head.transfer, head.position)
    }
}

/// Acknowledges the chunks that are written. Later acknowledgements say as much, so one that
/// doesn't fit the channel is dropped.
fn send_ack(acks: &SnapshotAcks, chunks: u64) {
    let kind = Some(Ack::Chunks(chunks));
    let _ = acks.try_send(Ok(pb::SnapshotAck { kind }));
}
