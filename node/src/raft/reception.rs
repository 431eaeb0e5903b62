//! Snapshots that come in: received, checked and installed by one task each.
//!
//! A snapshot is received into a generation of its own, which nobody else has written into or will,
//! and what was received is installed by the same task. That task belongs to the group: a connection
//! that is lost, or a caller that goes away, ends it only between two chunks. So
//!
//! - rows of two snapshots are never in one generation, and what is installed is what was checked:
//!   the number of its chunks and rows, their digest, and the position that they hold;
//! - one snapshot is received at a time: the newest connection takes over from the one before it,
//!   which lets go after the chunk that it is writing, or not at all while it installs;
//! - what came over a lost connection is kept for [`RESUME_TIMEOUT`]: the sender that still has the
//!   same view goes on behind it;
//! - a sender whose connection was lost while its snapshot was installed, and that asks again, is
//!   answered what it would have been then.

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

/// A sender from which nothing comes for this long is given up, though it may resume.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// What was received of a snapshot is kept this long for its sender to resume.
pub(super) const RESUME_TIMEOUT: Duration = Duration::from_secs(90);
/// Time that a connection waits for the one before it to let go.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(2);

/// The snapshots that a group receives.
pub(super) struct Receptions<M: Machine> {
    group: GroupId,
    db: StateDb,
    raft: Raft<Types<M>, Replica<M>>,
    generations: Generations,
    transfers: Arc<Transfers>,
    /// What was received so far. Whoever holds the lock receives, or installs.
    partial: Arc<Mutex<Option<Partial>>>,
    /// The last snapshot that was installed, and what its sender was answered.
    installed: SyncMutex<Option<(u64, Vote)>>,
    /// Ends the newest connection's reception between two chunks.
    newest: SyncMutex<CancellationToken>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A snapshot of which some chunks have come.
struct Partial {
    transfer: u64,
    last: LogId,
    rows: Rows,
    chunks: u64,
    checksum: Checksum,
    /// When its last connection ended.
    since: Instant,
}

/// The head of a snapshot, decoded.
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
        let incomplete = || Status::invalid_argument("a snapshot's head is incomplete");
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

/// Why a reception ended before its end.
enum Interruption {
    /// Its sender may resume it.
    Resumable(Status),
    /// What has come is of no use.
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

    /// Receives a snapshot whose head has come, and installs it. Cancel safe: once it was polled, a
    /// task of its own goes on until `frames` end, or the snapshot is installed.
    pub(super) async fn receive(
        self: &Arc<Self>,
        head: pb::SnapshotHead,
        frames: Frames,
        acks: SnapshotAcks,
    ) -> Result<pb::SnapshotReply, Status> {
        let head = Head::try_from(head)?;
        let receptions = self.clone();
        let task = self
            .tasks
            .spawn(async move { receptions.run(head, frames, acks).await });
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
            // A leader that was superseded learns that before it sends anything.
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
        let whole = async {
            self.fill(&mut partial, &head, frames, &acks, &superseded, &transfer)
                .await?;
            self.check_position(&partial, &head).await
        };
        match whole.await {
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

    /// Takes over from the connection before, if there is one.
    async fn enter(&self) -> Result<(OwnedMutexGuard<Option<Partial>>, CancellationToken), Status> {
        let superseded = self.stop.child_token();
        let before = std::mem::replace(&mut *self.newest.lock(), superseded.clone());
        before.cancel();
        let slot = tokio::time::timeout(TAKEOVER_TIMEOUT, self.partial.clone().lock_owned());
        let busy = |_| Status::resource_exhausted("another snapshot is being installed");
        Ok((slot.await.map_err(busy)?, superseded))
    }

    /// The answer to a sender that resumes a snapshot which is installed.
    fn answer_again(&self, head: &Head) -> Option<Vote> {
        let installed = *self.installed.lock();
        let resumed = installed.filter(|_| head.transfer != 0 && head.acknowledged > 0);
        resumed.and_then(|(transfer, vote)| (transfer == head.transfer).then_some(vote))
    }

    fn begin(&self, head: &Head) -> Result<Partial, Status> {
        if head.acknowledged > 0 {
            return Err(Status::failed_precondition(
                "what was received of the snapshot is not here any more",
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

    /// Writes the chunks that come, until all are there and agree with what the sender has counted.
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
            let silent = |_| Resumable(Status::deadline_exceeded("no chunk came in time"));
            let lost = || Resumable(Status::cancelled("the snapshot ended before its end"));
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
                // Of a version that sends no digest.
                Some(Frame::End(rows)) if head.transfer == 0 => {
                    let whole = rows == partial.checksum.rows();
                    let missing = || Useless(Status::data_loss("rows are missing"));
                    return whole.then_some(()).ok_or_else(missing);
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
        let turn = self.transfers.receive_pace().turn().await;
        let write = tokio::task::spawn_blocking(move || snapshot::put(&db, rows, chunk));
        let written = turn.during(write).await;
        written.map_err(|error| Useless(Status::internal(error.to_string())))??;
        partial.chunks += 1;
        Ok(())
    }

    /// Whether the rows hold the position that the head says: Raft goes by it.
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
            "the snapshot holds another position than it was sent with",
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
        // If Raft has stopped, it is unknown what it did: the next start removes what is left.
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

    /// Puts what was received in place of this member's damaged state.
    async fn repair(&self, partial: Partial, head: Head) -> Result<Vote, Status> {
        let rows = partial.rows;
        let replaced = repair::replace_damaged(&self.raft, self.group, rows).await;
        let current = snapshot::current_rows(&self.db, self.group).map_err(failed)?;
        if current != rows {
            self.discard(Some(partial)).await.map_err(failed)?;
        }
        replaced.map(|()| head.vote)
    }

    /// Removes what was received of a snapshot.
    async fn discard(&self, partial: Option<Partial>) -> Result<(), StoreError> {
        let Some(partial) = partial else {
            return Ok(());
        };
        let db = self.db.clone();
        let removed = tokio::task::spawn_blocking(move || snapshot::remove(&db, partial.rows));
        // It fails to run only when the runtime ends: the next start removes what is left.
        removed.await.unwrap_or(Ok(()))
    }

    /// Removes what was received of a snapshot whose sender hasn't resumed it.
    pub(super) async fn expire(&self) {
        let Ok(mut slot) = self.partial.clone().try_lock_owned() else {
            return;
        };
        if slot
            .as_ref()
            .is_some_and(|partial| partial.since.elapsed() > RESUME_TIMEOUT)
            && let Err(error) = self.discard(slot.take()).await
        {
            tracing::warn!(group = %self.group, %error, "remove the rest of a snapshot failed");
        }
    }

    /// Ends the reception that is under way, between two chunks.
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

/// Says how many chunks are written. Later ones say as much, so one that finds no room is dropped.
fn acknowledge(acks: &SnapshotAcks, chunks: u64) {
    let kind = Some(Ack::Chunks(chunks));
    let _ = acks.try_send(Ok(pb::SnapshotAck { kind }));
}
