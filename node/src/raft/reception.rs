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

use super::codec;
use super::repair;
use super::replica::{self, Replica};
use super::snapshot::{self, Checksum, Generations, SnapshotData};
use super::transfers::{Direction, Transfer, Transfers};
use super::types::{LogId, Machine, StoredMembership, Types, Vote};
use crate::rpc::{Frames, SnapshotAcks};
use crate::store::keys::{GroupId, Rows};
use crate::store::{StateDb, StoreError};

/// Time without a chunk after which a sender's connection is given up, though it may resume.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which a partial snapshot is kept for its sender to resume.
pub(super) const RESUME_TIMEOUT: Duration = Duration::from_secs(90);
/// Maximum wait for the previous connection to stop.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Receiver of a group's snapshots.
pub(super) struct Receptions<M: Machine> {
    group: GroupId,
    db: StateDb,
    raft: Raft<Types<M>, Replica<M>>,
    generations: Generations,
    transfers: Arc<Transfers>,
    /// Snapshot received so far. The holder of the lock receives, or installs.
    partial: Arc<Mutex<Option<Partial>>>,
    /// Last installed snapshot, and the reply to its sender.
    installed: SyncMutex<Option<(u64, Vote)>>,
    /// Cancels the reception over the newest connection, between two chunks.
    newest: SyncMutex<CancellationToken>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A snapshot of which some chunks were received.
struct Partial {
    transfer: u64,
    last: LogId,
    rows: Rows,
    chunks: u64,
    checksum: Checksum,
    /// Time when its last connection ended.
    since: Instant,
}

/// Decoded header of a snapshot.
struct Head {
    vote: Vote,
    last: LogId,
    members: StoredMembership,
    transfer: u64,
    acknowledged: u64,
    repair: bool,
}

impl TryFrom<pb::SnapshotHead> for Head {
    type Error = Status;

    fn try_from(head: pb::SnapshotHead) -> Result<Self, Status> {
        let incomplete = || Status::invalid_argument("receive snapshot: the header is incomplete");
        let members = head.membership.ok_or_else(incomplete)?;
        let members = codec::membership_of_pb(members)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Self {
            vote: codec::vote_from_pb(head.vote.ok_or_else(incomplete)?),
            last: codec::log_id_from_pb(head.last.ok_or_else(incomplete)?),
            members,
            transfer: head.transfer,
            acknowledged: head.acknowledged,
            repair: head.repair,
        })
    }
}

/// Error that ended a reception.
enum Interruption {
    /// The sender may resume.
    Resumable(Status),
    /// The received data can't be used.
    Useless(Status),
}

use Interruption::{Resumable, Useless};

impl From<StoreError> for Interruption {
    fn from(error: StoreError) -> Self {
        Useless(failed(error))
    }
}

fn failed(error: StoreError) -> Status {
    Status::internal(error.to_string())
}

impl<M: Machine> Receptions<M> {
    pub(super) fn new(
        group: GroupId,
        db: StateDb,
        raft: Raft<Types<M>, Replica<M>>,
        generations: Generations,
        transfers: Arc<Transfers>,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            db,
            raft,
            generations,
            transfers,
            partial: Arc::default(),
            installed: SyncMutex::default(),
            newest: SyncMutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Receives a snapshot whose header has arrived, and installs it. Cancel safe: once it was
    /// polled, a task of its own goes on until `frames` end, or the snapshot is installed.
    pub(super) async fn receive(
        self: &Arc<Self>,
        head: pb::SnapshotHead,
        frames: Frames,
        acks: SnapshotAcks,
    ) -> Result<pb::SnapshotReply, Status> {
        let head = Head::try_from(head)?;
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

    async fn run(&self, head: Head, frames: Frames, acks: SnapshotAcks) -> Result<Vote, Status> {
        let known = self.raft.metrics().borrow_watched().vote;
        if known > head.vote {
            // A superseded leader learns of it before it sends anything.
            return Ok(known);
        }
        let (mut slot, superseded) = self.enter().await?;
        if let Some(vote) = self.answer_again(&head) {
            return Ok(vote);
        }
        let mut partial = match slot.take() {
            Some(partial) if partial.resumes(&head) => partial,
            other => {
                self.discard(other).await.map_err(failed)?;
                self.begin(&head)?
            }
        };
        let sender = head.vote.leader_id.voted_for;
        let transfer = self
            .transfers
            .begin(Direction::Received, sender, head.last.index);
        transfer.start(partial.chunks, partial.checksum.bytes());
        let received = async {
            self.fill(&mut partial, &head, frames, &acks, &superseded, &transfer)
                .await?;
            self.check_position(&partial, &head).await
        };
        match received.await {
            Ok(()) => {
                let number = head.transfer;
                let installed = if head.repair {
                    self.repair(partial, head).await
                } else {
                    self.install(partial, head).await
                };
                transfer.end(installed.as_ref().err());
                if let Ok(vote) = &installed {
                    *self.installed.lock() = Some((number, *vote));
                }
                installed
            }
            Err(Resumable(status)) => {
                partial.since = Instant::now();
                *slot = Some(partial);
                transfer.end(Some(&status));
                Err(status)
            }
            Err(Useless(status)) => {
                transfer.end(Some(&status));
                self.discard(Some(partial)).await.map_err(failed)?;
                Err(status)
            }
        }
    }

    /// Takes over from the previous connection, if there is one.
    async fn enter(&self) -> Result<(OwnedMutexGuard<Option<Partial>>, CancellationToken), Status> {
        let superseded = self.stop.child_token();
        let previous = std::mem::replace(&mut *self.newest.lock(), superseded.clone());
        previous.cancel();
        let slot = tokio::time::timeout(TAKEOVER_TIMEOUT, self.partial.clone().lock_owned());
        let busy = |_| Status::resource_exhausted("another snapshot is being installed");
        Ok((slot.await.map_err(busy)?, superseded))
    }

    /// Repeats the reply to a sender that resumes an installed snapshot.
    fn answer_again(&self, head: &Head) -> Option<Vote> {
        let installed = *self.installed.lock();
        let resumed = installed.filter(|_| head.transfer != 0 && head.acknowledged > 0);
        resumed.and_then(|(transfer, vote)| (transfer == head.transfer).then_some(vote))
    }

    fn begin(&self, head: &Head) -> Result<Partial, Status> {
        if head.acknowledged > 0 {
            return Err(Status::failed_precondition(
                "resume snapshot: what was received of it has been discarded",
            ));
        }
        Ok(Partial {
            transfer: head.transfer,
            last: head.last,
            rows: self.generations.next(self.group),
            chunks: 0,
            checksum: Checksum::default(),
            since: Instant::now(),
        })
    }

    /// Writes chunks as they arrive, until all are there and match the sender's checksum.
    async fn fill(
        &self,
        partial: &mut Partial,
        head: &Head,
        mut frames: Frames,
        acks: &SnapshotAcks,
        superseded: &CancellationToken,
        transfer: &Transfer,
    ) -> Result<(), Interruption> {
        acknowledge(acks, partial.chunks);
        loop {
            let next = tokio::select! {
                biased;
                () = superseded.cancelled() => {
                    return Err(Resumable(Status::cancelled("a newer connection took over")));
                }
                next = tokio::time::timeout(RECEIVE_TIMEOUT, frames.next()) => next,
            };
            let silent = |_| Resumable(Status::deadline_exceeded("no chunk arrived in time"));
            let lost = || Resumable(Status::cancelled("the connection ended before the snapshot"));
            let frame = next.map_err(silent)?.ok_or_else(lost)?.map_err(Resumable)?;
            match frame.kind {
                Some(Frame::Chunk(chunk)) => {
                    if head.transfer != 0 && chunk.number != partial.chunks {
                        return Err(Useless(Status::data_loss("a chunk is missing")));
                    }
                    self.write(partial, chunk).await?;
                    transfer.advance(partial.chunks, partial.checksum.bytes());
                    acknowledge(acks, partial.chunks);
                }
                Some(Frame::Last(sent)) => return partial.checksum.check(&sent).map_err(Useless),
                // Sent by a version without digests.
                Some(Frame::End(rows)) if head.transfer == 0 => {
                    let is_complete = rows == partial.checksum.rows();
                    let missing = || Useless(Status::data_loss("rows are missing"));
                    return is_complete.then_some(()).ok_or_else(missing);
                }
                Some(Frame::Head(_) | Frame::End(_)) | None => {
                    return Err(Useless(Status::invalid_argument("unknown frame")));
                }
            }
        }
    }

    async fn write(
        &self,
        partial: &mut Partial,
        chunk: pb::SnapshotChunk,
    ) -> Result<(), Interruption> {
        partial.checksum.add(&chunk);
        let (db, rows) = (self.db.clone(), partial.rows);
        let permit = self.transfers.receive_pace().turn().await;
        let write = tokio::task::spawn_blocking(move || snapshot::put(&db, rows, chunk));
        let written = permit.during(write).await;
        written.map_err(|error| Useless(Status::internal(error.to_string())))??;
        partial.chunks += 1;
        Ok(())
    }

    /// Verifies that the rows hold the position of the header: Raft relies on it.
    async fn check_position(&self, partial: &Partial, head: &Head) -> Result<(), Interruption> {
        let (db, rows) = (self.db.clone(), partial.rows);
        let read = tokio::task::spawn_blocking(move || replica::read_position(&db, rows)).await;
        let (position, _) = read
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| Useless(Status::internal(error.to_string())))?;
        if position == Some(head.last) {
            return Ok(());
        }
        Err(Useless(Status::data_loss(
            "verify snapshot: its rows hold another position than its header",
        )))
    }

    async fn install(&self, partial: Partial, head: Head) -> Result<Vote, Status> {
        let rows = partial.rows;
        let meta = SnapshotMeta {
            last_log_id: Some(head.last),
            last_membership: head.members,
        };
        let received = Snapshot {
            meta,
            snapshot: SnapshotData::received(self.db.clone(), rows),
        };
        let answer = self.raft.install_full_snapshot(head.vote, received).await;
        // If Raft has stopped, the outcome is unknown: the next start removes leftovers.
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        let current = snapshot::current_rows(&self.db, self.group).map_err(failed)?;
        if current == rows {
            tracing::info!(
                group = %self.group,
                index = head.last.index,
                bytes = partial.checksum.bytes(),
                "snapshot installed"
            );
        } else {
            // It brought nothing new, or its sender doesn't lead any more.
            self.discard(Some(partial)).await.map_err(failed)?;
        }
        Ok(answer.vote)
    }

    /// Replaces this member's damaged state by what was received.
    async fn repair(&self, partial: Partial, head: Head) -> Result<Vote, Status> {
        let rows = partial.rows;
        let replaced = repair::replace_damaged(&self.raft, self.group, rows).await;
        let current = snapshot::current_rows(&self.db, self.group).map_err(failed)?;
        if current != rows {
            self.discard(Some(partial)).await.map_err(failed)?;
        }
        replaced.map(|()| head.vote)
    }

    /// Removes a partial snapshot.
    async fn discard(&self, partial: Option<Partial>) -> Result<(), StoreError> {
        let Some(partial) = partial else {
            return Ok(());
        };
        let db = self.db.clone();
        let removed = tokio::task::spawn_blocking(move || snapshot::remove(&db, partial.rows));
        // It fails to run only when the runtime shuts down: the next start removes leftovers.
        removed.await.unwrap_or(Ok(()))
    }

    /// Removes a partial snapshot that its sender hasn't resumed in time.
    pub(super) async fn expire(&self) {
        let Ok(mut slot) = self.partial.clone().try_lock_owned() else {
            return;
        };
        if slot
            .as_ref()
            .is_some_and(|partial| partial.since.elapsed() > RESUME_TIMEOUT)
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

impl Partial {
    fn resumes(&self, head: &Head) -> bool {
        head.transfer != 0 && (self.transfer, self.last) == (head.transfer, head.last)
    }
}

/// Acknowledges the chunks that are written. Later acknowledgements say as much, so one that
/// doesn't fit the channel is dropped.
fn acknowledge(acks: &SnapshotAcks, chunks: u64) {
    let kind = Some(Ack::Chunks(chunks));
    let _ = acks.try_send(Ok(pb::SnapshotAck { kind }));
}
