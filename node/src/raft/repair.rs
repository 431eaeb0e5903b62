//! Repairs a replica whose state the disk has damaged, by a copy of the leader's state.
//!
//! ```text
//! damage found ─► leadership transferred ─► stalled ─► snapshot requested ─► replaced ─► replayed
//!                                           (applies nothing, votes and keeps its log)
//! ```
//!
//! Log and vote are elsewhere on the disk and intact, so the member goes on voting and accepting
//! entries: nothing that it has acknowledged is lost. It doesn't stand for election meanwhile.
//!
//! Invariants:
//! - A stalled replica applies nothing and answers no read under the lease, since what openraft
//!   counts as applied may not be in its state. It records how far openraft has gone
//!   (`skipped_to`).
//! - The log is purged only up to what the state has flushed, so all entries behind the damaged
//!   state stay until it is replaced.
//! - The damaged state is replaced only by one at a position between its own and `skipped_to`:
//!   those are entries that this member's own log holds as committed. The entries between that
//!   position and `skipped_to` are then applied from the log, and only after that the replica isn't
//!   stalled any more.
//! - A crash at any line leaves the old state or the new one, as with every snapshot; what isn't
//!   applied yet is applied from the log at the next start, where the damage is found again.
//! - A copy becomes the current state only after all of it was read.
//!
//! A scan of the new rows reads the block of the old files in whose range they are. If that block
//! is the damaged one, the state can't be replaced in these files: the replica stays stalled,
//! requests snapshots less and less often, and its node has to be replaced by one with an empty
//! directory.
//!
//! Without another voter there is nothing to copy: reads of damaged rows fail, all else goes on,
//! and an entry that can't be applied because of the damage stops the group.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, RaftLogReader};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::codec;
use super::group::Group;
use super::raft_member::not_here_reply;
use super::replica::{PendingResponse, Replica, read_position};
use super::snapshot::{self, SnapshotData};
use super::snapshot_sender::send_snapshot;
use super::types::{Entry, LogId, MachineState, NodeId, StateMachine, TypeConfig};
use crate::rpc::StreamKind;
use crate::store::keys::{GroupId, RowKind, Rows};
use crate::store::{GroupDamage, RowBatch, Scan, StateDb, StoreError};

/// Interval between two steps of a repair.
const REPAIR_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum interval between two requests for a snapshot: it doubles with each.
const MAX_REPAIR_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of a request to the leader for a snapshot.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum wait for the leader to apply what the damaged replica had, and for that replica to
/// receive the entries that the snapshot holds.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which these entries are polled for.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// Progress of a replica's repair, and what it needs.
pub(super) struct Repair {
    /// `None`: it can't be repaired, so damage found when applying stops the group.
    context: Option<RepairContext>,
    /// Position of the last batch that was written.
    last_written: Option<LogId>,
    /// Last entry that openraft counts as applied, while nothing is applied.
    skipped_to: Option<LogId>,
}

struct RepairContext {
    node: NodeId,
    damage: Arc<GroupDamage>,
}

impl Repair {
    pub(super) fn new(last_written: Option<LogId>) -> Self {
        Self {
            context: None,
            last_written,
            skipped_to: None,
        }
    }

    pub(super) fn skipped_to(&self) -> Option<LogId> {
        self.skipped_to
    }

    pub(super) fn record_written(&mut self, at: LogId) {
        self.last_written = Some(at);
    }
}

/// Error of replacing a replica's state.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplaceError {
    /// The log lacks entries up to the snapshot's position yet.
    #[error("the entries that the snapshot holds have not been received yet")]
    Ahead,
    /// The replica has more than the snapshot, or isn't damaged.
    #[error("the snapshot can't be used: {0}")]
    Unusable(&'static str),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] io::Error),
}

impl From<StoreError> for ReplaceError {
    fn from(error: StoreError) -> Self {
        Self::Storage(error.into())
    }
}

impl<M: StateMachine> Replica<M> {
    /// Enables repairs of the replica on `node` when `damage` is found.
    pub(super) fn with_repair(mut self, node: NodeId, damage: Arc<GroupDamage>) -> Self {
        self.repair.context = Some(RepairContext { node, damage });
        self
    }

    /// Handles an entry that couldn't be applied. If the state is damaged and other voters have it,
    /// nothing is applied from this entry on, until the state is replaced; any other error is
    /// returned.
    pub(super) fn stall_on_damage(&mut self, at: LogId, error: io::Error) -> io::Result<()> {
        let Some(means) = &self.repair.context else {
            return Err(error);
        };
        let has_others = self.membership.voter_ids().any(|id| id != means.node);
        if !has_others || !StoreError::is_io_damage(&error) {
            return Err(error);
        }
        // Before the state can be taken for that of the leader.
        self.progress.set_stalled(true);
        means.damage.record(self.rows.generation(), &error);
        self.discard_unwritten();
        self.repair.skipped_to = Some(at);
        Ok(())
    }

    /// Resets position and membership to what was written.
    fn discard_unwritten(&mut self) {
        self.applied = self.repair.last_written;
        if self.membership.log_id() > &self.applied {
            let stored = self.db.get(&self.rows.single(RowKind::Membership));
            let stored = stored.ok().flatten().map(codec::decode_membership);
            self.membership = stored.and_then(Result::ok).unwrap_or_default();
        }
    }

    /// Records an entry that isn't applied.
    pub(super) async fn skip_entry(
        &mut self,
        at: LogId,
        batch: &mut RowBatch,
        answers: &mut Vec<PendingResponse<M>>,
    ) -> io::Result<()> {
        // Applied before the replica was stalled.
        self.commit(std::mem::take(batch), std::mem::take(answers))
            .await?;
        self.repair.skipped_to = Some(at);
        Ok(())
    }

    /// Returns whether everything that was applied is written.
    pub(super) fn is_all_written(&self) -> bool {
        self.applied == self.repair.last_written
    }

    /// Ends the repair: the state is intact.
    pub(super) fn finish_repair(&mut self) {
        self.repair.skipped_to = None;
        self.repair.last_written = self.applied;
        if let Some(means) = &self.repair.context {
            means.damage.replaced_by(self.rows.generation());
        }
        self.progress.set_stalled(false);
    }

    /// Replaces the damaged state by a snapshot that was received into `rows`, and applies the
    /// entries that were skipped since.
    async fn replace_state(&mut self, rows: Rows) -> Result<(), ReplaceError> {
        if !self.progress.is_stalled() {
            return Err(ReplaceError::Unusable("the state is not damaged any more"));
        }
        let (position, membership) = read_position(&self.db, rows)?;
        let passed = self.repair.skipped_to.max(self.applied);
        if position < self.applied {
            return Err(ReplaceError::Unusable("the damaged state is newer"));
        }
        if position > passed {
            return Err(ReplaceError::Ahead);
        }
        let (db, old) = (self.db.clone(), self.rows);
        let data = SnapshotData::received(db.clone(), rows);
        verify_readable(&db, rows).await?;
        let generations = self.generations.clone();
        tokio::task::spawn_blocking(move || {
            snapshot::install_generation(&db, old, &data, &generations)
        })
        .await
        .map_err(io::Error::other)??;
        self.state.reload(rows)?;
        self.rows = rows;
        self.applied = position;
        self.repair.last_written = position;
        self.membership = membership;
        self.publish();
        self.replay(passed).await?;
        self.finish_repair();
        self.publish();
        let db = self.db.clone();
        tokio::task::spawn_blocking(move || snapshot::remove_generation(&db, old))
            .await
            .map_err(io::Error::other)??;
        Ok(())
    }

    /// Applies the entries of the log up to `last`. No proposer waits for their responses.
    async fn replay(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut log = self.log.clone();
        let end = last.map_or(0, |at| at.index + 1);
        let mut next = self.applied.map_or(0, |at| at.index + 1);
        while next < end {
            let entries = log.limited_get_log_entries(next, end).await?;
            if entries.first().map(|entry| entry.log_id.index) != Some(next) {
                return Err(io::Error::other(
                    "replay log: it lacks entries behind the state",
                ));
            }
            let replayed = self.replay_entries(entries).await;
            if replayed.is_err() {
                self.discard_unwritten();
            }
            next = replayed?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Applies entries, and returns the index after the last one.
    async fn replay_entries(&mut self, entries: Vec<Entry<M>>) -> io::Result<u64> {
        let mut batch = RowBatch::default();
        let mut next = 0;
        for entry in entries {
            next = entry.log_id.index + 1;
            let alone = Self::is_scan(&entry);
            if alone {
                self.commit(std::mem::take(&mut batch), Vec::new()).await?;
            }
            self.apply_to_batch(entry, &mut batch)?;
            if alone {
                self.commit(std::mem::take(&mut batch), Vec::new()).await?;
            }
        }
        self.commit(batch, Vec::new()).await?;
        Ok(next)
    }
}

/// Reads all rows of a generation: a copy that can't be read must not become the current one.
async fn verify_readable(db: &StateDb, rows: Rows) -> io::Result<()> {
    let db = db.clone();
    let read = tokio::task::spawn_blocking(move || {
        let (from, to) = rows.bounds();
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        db.scan(scan, |_, _| ControlFlow::Continue(()))
    });
    Ok(read.await.map_err(io::Error::other)??)
}

/// Stops applying, if the state is damaged.
fn stall_if_damaged<M: StateMachine>(replica: &mut Replica<M>) -> BoxFuture<'_, ()> {
    if let Some(means) = &replica.repair.context
        && means.damage.is_damaged()
    {
        replica.progress.set_stalled(true);
    }
    std::future::ready(()).boxed()
}

/// Replaces a damaged state by a snapshot that was received completely into `rows`. No other
/// snapshot may be received meanwhile.
pub(super) async fn replace_damaged_state<M: StateMachine>(
    raft: &Raft<TypeConfig<M>, Replica<M>>,
    group: GroupId,
    rows: Rows,
) -> Result<(), Status> {
    let until = Instant::now() + CATCH_UP_TIMEOUT;
    loop {
        let replaced = raft.with_state_machine(move |replica| replica.replace_state(rows).boxed());
        let replaced = replaced.await;
        match replaced.map_err(|error| Status::unavailable(error.to_string()))? {
            Ok(()) => {
                tracing::info!(%group, "damaged state replaced by the leader's");
                return Ok(());
            }
            Err(ReplaceError::Ahead) if Instant::now() < until => {
                tokio::time::sleep(CATCH_UP_INTERVAL).await;
            }
            Err(error) => {
                tracing::warn!(%group, %error, "damaged state not replaced");
                return Err(Status::failed_precondition(error.to_string()));
            }
        }
    }
}

/// Members to which this leader is sending its state for a repair.
pub(super) type RepairSends = Arc<Mutex<BTreeSet<NodeId>>>;

/// Guard held while the state is sent to a member.
struct RepairSendGuard(RepairSends, NodeId);

impl Drop for RepairSendGuard {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl<M: StateMachine> Group<M> {
    /// Returns whether other nodes vote in the group: they have its state, too.
    pub fn has_other_voters(&self) -> bool {
        self.raft().voter_ids().any(|id| id != self.node())
    }

    /// Returns whether this node's state is damaged, and can be replaced by another voter's.
    pub fn is_in_repair(&self) -> bool {
        self.damage().is_damaged() && self.has_other_voters()
    }

    /// Repairs this node's state whenever damage is found. Never returns.
    pub async fn run_repair(self: Arc<Self>) {
        // A disk that has damaged one block may have damaged others: everything is read, once,
        // while the other voters can replace it.
        let mut damage_watch = self.engine().state.watch_damage();
        let anywhere = async {
            let _ = damage_watch.wait_for(|is_damaged| *is_damaged).await;
        };
        tokio::select! {
            () = self.damage().wait_until_damaged() => {}
            () = anywhere => self.scan_for_damage().await,
        }
        let mut interval = REPAIR_INTERVAL;
        loop {
            self.damage().wait_until_damaged().await;
            while self.damage().is_damaged() {
                if self.has_other_voters() && self.repair_step().await {
                    tokio::time::sleep(interval).await;
                    interval = (2 * interval).min(MAX_REPAIR_INTERVAL);
                } else {
                    tokio::time::sleep(REPAIR_INTERVAL).await;
                }
            }
            self.update_candidacy();
        }
    }

    /// Reads all of the group's rows. Damage is recorded on the way.
    async fn scan_for_damage(&self) {
        let db = self.engine().state.clone();
        let _permit = db.lock_check().await;
        // Cached blocks prove nothing about the disk.
        db.evict_cached_blocks();
        let id = self.id();
        let read = tokio::task::spawn_blocking(move || {
            let (from, to) = snapshot::current_rows(&db, id)?.bounds();
            let scan = Scan {
                from,
                to,
                fill_cache: false,
            };
            db.scan(scan, |_, _| ControlFlow::Continue(()))
        });
        let is_intact = matches!(read.await, Ok(Ok(())));
        tracing::info!(group = %id, is_intact, "state checked for damage");
    }

    /// Takes the next step. Returns whether it was a request for a snapshot.
    async fn repair_step(&self) -> bool {
        self.update_candidacy();
        if self.led_term().is_some() {
            let others: Vec<NodeId> = self.members().0.into_iter().collect();
            let transferred = self
                .transfer_leadership(&others, "the leader's state was damaged")
                .await;
            let group = self.id();
            tracing::info!(%group, transferred, "state is damaged, leadership transfer tried");
            return false;
        }
        let leader = *self.leader().borrow();
        let Some(leader) = leader.filter(|leader| *leader != self.node()) else {
            return false;
        };
        let stalled = self.raft().with_state_machine(stall_if_damaged).await;
        if stalled.is_err() {
            return false;
        }
        let body = call::Body::Snapshot(pb::SnapshotRequest {
            group: u32::from(self.id().0),
            at_least: self.progress().applied_index(),
        });
        let reply = self
            .peers()
            .call(leader, StreamKind::Raft, body, REQUEST_TIMEOUT);
        let accepted = matches!(reply.await, Ok(reply::Body::Snapshot(_)));
        let leader = self.peers().name_of(leader);
        tracing::info!(group = %self.id(), leader, accepted, "repair snapshot requested");
        accepted
    }

    /// Sends this leader's state to a member whose own state is damaged.
    pub(super) fn send_repair_snapshot(
        &self,
        to: NodeId,
        request: &pb::SnapshotRequest,
    ) -> reply::Body {
        let (voters, learners) = self.members();
        if !self.may_read() || !(voters.contains(&to) || learners.contains(&to)) {
            return not_here_reply("this node does not lead the group, or the other is no member");
        }
        if !self.repair_sends().lock().insert(to) {
            return reply::Body::Snapshot(pb::SnapshotPromise {});
        }
        let resending = RepairSendGuard(self.repair_sends().clone(), to);
        let vote = self.raft().metrics().borrow_watched().vote;
        let (id, db, peers) = (self.id(), self.engine().state.clone(), self.peers().clone());
        let (progress, at_least) = (self.shared_progress(), request.at_least);
        let transfers = self.shared_transfers();
        tokio::spawn(async move {
            let _resending = resending;
            let reached = progress.wait_for_index(at_least);
            if tokio::time::timeout(CATCH_UP_TIMEOUT, reached)
                .await
                .is_err()
            {
                return;
            }
            let sent = match snapshot::current_rows(&db, id) {
                Ok(rows) => {
                    let data = SnapshotData::live(db, rows).for_repair();
                    send_snapshot(&peers, &transfers, to, data, &vote, at_least).await
                }
                Err(error) => Err(Status::internal(error.to_string())),
            };
            let node = peers.name_of(to);
            match sent {
                Ok(_) => tracing::info!(group = %id, node, "repair snapshot sent"),
                Err(error) => {
                    tracing::warn!(group = %id, node, %error, "repair snapshot not sent");
                }
            }
        });
        reply::Body::Snapshot(pb::SnapshotPromise {})
    }
}
