//! A running Raft group: its state on this node, and how it stops.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `settings` | settings of a group, and openraft's |
//! | `start` | opens log and state, runs the group, bootstraps it |
//! | `proposal` | proposes commands |
//! | `purge` | purges the log |
//! | `status` | summary for operators |

pub(super) mod proposal;
mod purge;
pub(super) mod settings;
mod start;
pub(super) mod status;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::{Mutex, watch};

use super::apply_progress::ApplyProgress;
use super::checkpoints::Checkpoints;
use super::freshness::Freshness;
use super::leader_contact::LeaderContact;
use super::lease::Lease;
use super::log_retention::LogRetention;
use super::log_store::LogStore;
use super::repair_sends::RepairSends;
use super::replica::Replica;
use super::snapshot_receiver::SnapshotReceiver;
use super::snapshot_transfers::SnapshotTransfers;
use super::types::{StateMachine, TypeConfig};
use crate::rpc::{Peers, SnapshotAcks, SnapshotFrames};
use crate::store::keys::GroupId;
use crate::store::{DiskSpace, DiskState, Engine, GroupDamage};
use crate::types::NodeId;

/// Time after a leadership transfer in which a change of leadership is attributed to it.
const TRANSFER_REASON_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason of a leadership transfer, as recorded by nodes other than the previous leader.
const REMOTE_TRANSFER_REASON: &str = "the previous leader transferred leadership";

/// A running group. Dropping it doesn't stop it: call [`Group::stop`].
pub struct Group<M: StateMachine> {
    id: GroupId,
    node: NodeId,
    raft: Raft<TypeConfig<M>, Replica<M>>,
    engine: Arc<Engine>,
    log: LogStore<M>,
    lease: Arc<Lease>,
    freshness: Arc<Freshness>,
    contact: Arc<LeaderContact>,
    leader: watch::Receiver<Option<NodeId>>,
    progress: Arc<ApplyProgress>,
    checkpoints: Arc<Checkpoints>,
    log_retention_limits: (usize, u64),
    disk_space: Arc<DiskSpace>,
    /// Until then the node gives no vote: see `raft_member`.
    voting_starts_at: Instant,
    /// Set if this node may stand for election, and be a target of leadership transfers.
    may_lead: Arc<AtomicBool>,
    lease_duration: Duration,
    peers: Arc<Peers>,
    /// Locked while members are changed.
    membership_lock: Mutex<()>,
    stopping: AtomicBool,
    transfers: Arc<SnapshotTransfers>,
    snapshot_receiver: Arc<SnapshotReceiver<M>>,
    retention: Arc<LogRetention>,
    damage: Arc<GroupDamage>,
    /// Time and reason of the last leadership transfer.
    last_transfer: parking_lot::Mutex<Option<(Instant, &'static str)>>,
    /// Members that are no targets of leadership transfers.
    excluded_targets: parking_lot::Mutex<Vec<NodeId>>,
    repair_sends: RepairSends,
}

impl<M: StateMachine> Group<M> {
    pub(super) fn raft(&self) -> &Raft<TypeConfig<M>, Replica<M>> {
        &self.raft
    }

    /// Digests of this node's replica after certain entries.
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// Number of this node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Returns whether the group accepts no more calls.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn is_eligible_leader(&self) -> bool {
        self.may_lead.load(Ordering::Acquire)
    }

    pub(super) fn lease_duration(&self) -> Duration {
        self.lease_duration
    }

    pub(super) fn membership_lock(&self) -> &Mutex<()> {
        &self.membership_lock
    }

    /// State of this node's disk.
    pub(super) fn disk_state(&self) -> DiskState {
        self.disk_space.state()
    }

    pub(super) fn voting_starts_at(&self) -> Instant {
        self.voting_starts_at
    }

    /// Leader as far as this node knows; updated shortly after a change.
    pub fn leader(&self) -> &watch::Receiver<Option<NodeId>> {
        &self.leader
    }

    /// Returns whether this node is a member of the group: it has a copy of its state, or will
    /// have.
    pub fn is_member(&self) -> bool {
        let me = self.node;
        self.raft
            .voter_ids()
            .chain(self.raft.learner_ids())
            .any(|id| id == me)
    }

    /// Sets whether this node may lead: a node whose clock is off must not. It doesn't stand for
    /// election then, and refuses leadership transfers.
    pub fn set_may_lead(&self, may_lead: bool) {
        self.may_lead.store(may_lead, Ordering::Release);
        self.update_candidacy();
    }

    /// Lets this node stand for election if its state isn't damaged, and its clock is right.
    pub(super) fn update_candidacy(&self) {
        if Instant::now() >= self.voting_starts_at {
            let can_lead = self.may_lead.load(Ordering::Acquire) && !self.is_in_repair();
            self.raft.runtime_config().elect(can_lead);
        }
    }

    pub(super) fn record_transfer(&self, reason: &'static str) {
        *self.last_transfer.lock() = Some((Instant::now(), reason));
    }

    /// Records a leadership transfer that another member reports: this node may know the reason
    /// better.
    pub(super) fn record_remote_transfer(&self) {
        let mut last = self.last_transfer.lock();
        let is_known = last.is_some_and(|(at, _)| at.elapsed() < TRANSFER_REASON_TIMEOUT);
        if !is_known {
            *last = Some((Instant::now(), REMOTE_TRANSFER_REASON));
        }
    }

    /// Takes the reason of a leadership transfer that has just happened. Returns it once: the next
    /// change has another reason.
    pub fn take_transfer_reason(&self) -> Option<&'static str> {
        let last = self.last_transfer.lock().take();
        let recent = last.filter(|(at, _)| at.elapsed() < TRANSFER_REASON_TIMEOUT);
        recent.map(|(_, reason)| reason)
    }

    /// Excludes these members as targets of leadership transfers: their state is damaged.
    pub fn exclude_targets(&self, members: Vec<NodeId>) {
        *self.excluded_targets.lock() = members;
    }

    pub(super) fn is_excluded_target(&self, member: NodeId) -> bool {
        self.excluded_targets.lock().contains(&member)
    }

    /// Damage of this node's state.
    pub fn damage(&self) -> &GroupDamage {
        &self.damage
    }

    /// Returns whether other nodes vote in the group: they have its state, too.
    pub fn has_other_voters(&self) -> bool {
        self.raft.voter_ids().any(|id| id != self.node)
    }

    /// Returns whether this node's state is damaged, and can be replaced by another voter's.
    pub fn is_in_repair(&self) -> bool {
        self.damage.is_damaged() && self.has_other_voters()
    }

    pub(super) fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn repair_sends(&self) -> &RepairSends {
        &self.repair_sends
    }

    pub(super) fn shared_transfers(&self) -> Arc<SnapshotTransfers> {
        self.transfers.clone()
    }

    pub(super) fn shared_progress(&self) -> Arc<ApplyProgress> {
        self.progress.clone()
    }

    /// Id of the group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Returns whether a read that begins now may be answered from this node's state: see
    /// [`Lease`].
    pub fn may_read(&self) -> bool {
        self.lease.is_valid(&self.progress)
    }

    pub(super) fn shared_contact(&self) -> Arc<LeaderContact> {
        self.contact.clone()
    }

    /// Returns whether the group has a leader, as far as this node knows: it leads and a majority
    /// has acknowledged it, or its leader was in contact, both within two election timeouts.
    pub fn has_leader(&self) -> bool {
        self.may_read() || self.contact.is_recent()
    }

    /// Time since the last contact with a leader; `None` if there was none since the start.
    pub fn leaderless_for(&self) -> Option<Duration> {
        self.contact.since_last_contact()
    }

    /// Time since the known leader last changed.
    pub fn leader_age(&self) -> Duration {
        self.contact.leader_age()
    }

    /// Number of entries that this node's replica lacks of those committed when it came into
    /// contact with the leader; `None` while no leader has announced its commit index.
    pub fn catch_up_lag(&self) -> Option<u64> {
        self.contact.catch_up_lag(&self.progress)
    }

    /// Time for which this node has led the group without interruption, at least, if it leads.
    pub fn led_for(&self) -> Duration {
        self.lease.led_for()
    }

    /// Returns whether this node's replica may be read though it doesn't lead: see [`Freshness`].
    pub fn is_fresh(&self) -> bool {
        self.freshness.is_fresh(&self.progress)
    }

    pub(super) fn freshness(&self) -> &Arc<Freshness> {
        &self.freshness
    }

    /// Makes this node's replica stale until it has caught up, after it received nothing for some
    /// time.
    pub fn reset_freshness(&self) {
        self.freshness.reset();
    }

    /// Start of this node's leadership in its term, if it leads the group.
    pub fn led_since(&self) -> Instant {
        self.lease.led_since()
    }

    /// Term that this node leads, if it does, and the start of its leadership.
    pub fn leadership(&self) -> Option<(u64, Instant)> {
        self.lease.led_term()
    }

    /// Progress of applying entries on this node.
    pub fn progress(&self) -> &ApplyProgress {
        &self.progress
    }

    /// Log that is retained for members that lag.
    pub fn retention(&self) -> &Arc<LogRetention> {
        &self.retention
    }

    /// Stops retaining the log for the members that lag now: they will need a snapshot.
    pub fn release_retained_log(&self) {
        let released = self.retention.release();
        self.transfers.cancel_before(released);
    }

    /// Receives a snapshot whose header has arrived, and installs it: see
    /// [`SnapshotReceiver::receive`].
    pub(super) async fn receive_snapshot(
        &self,
        head: pb::SnapshotHeader,
        frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> Result<pb::SnapshotReply, tonic::Status> {
        self.snapshot_receiver.receive(head, frames, acks).await
    }

    /// Snapshot transfers from and to this node.
    pub fn transfers(&self) -> &SnapshotTransfers {
        &self.transfers
    }

    /// Waits until this node has applied an entry.
    pub async fn wait_applied(&self, index: u64) {
        self.progress.wait_for_index(index).await;
    }

    /// Waits until the group has stopped; an error says why, `Ok` if it was stopped by
    /// [`Group::stop`].
    pub async fn wait_stopped(&self) -> Result<(), String> {
        // Of all metrics these change least; their channel closes with the group.
        let mut metrics = self.raft.server_metrics();
        while metrics.changed().await.is_ok() {}
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        match state {
            Ok(()) | Err(Fatal::Stopped) => Ok(()),
            Err(fatal @ (Fatal::StorageError(_) | Fatal::Panicked)) => {
                Err(format!("{}: {fatal}", self.id))
            }
        }
    }

    /// Answers no more reads, and stops Raft. Proposals whose outcome isn't known yet are dropped.
    pub async fn stop(&self) -> io::Result<()> {
        self.lease.close();
        self.stopping.store(true, Ordering::Release);
        let stopped = self.raft.shutdown().await.map_err(io::Error::other);
        self.snapshot_receiver.stop().await;
        stopped
    }
}
