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

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use tonic::Status;

use super::group::Group;
use super::refusal::not_here_reply;
use super::replica::Replica;
use super::snapshot::{self, SnapshotData};
use super::snapshot_sender::send_snapshot;
use super::state_replacement::CATCH_UP_TIMEOUT;
use super::types::StateMachine;
use crate::rpc::StreamKind;
use crate::store::Scan;
use crate::types::NodeId;

/// Interval between two steps of a repair.
const REPAIR_INTERVAL: Duration = Duration::from_millis(500);
/// Maximum interval between two requests for a snapshot: it doubles with each.
const MAX_REPAIR_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of a request to the leader for a snapshot.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Stops applying, if the state is damaged.
fn stall_if_damaged<M: StateMachine>(replica: &mut Replica<M>) -> BoxFuture<'_, ()> {
    if let Some(means) = &replica.repair.context
        && means.damage.is_damaged()
    {
        replica.progress.set_stalled(true);
    }
    std::future::ready(()).boxed()
}

impl<M: StateMachine> Group<M> {
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
        let Some(resending) = self.repair_sends().begin(to) else {
            return reply::Body::Snapshot(pb::SnapshotPromise {});
        };
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
