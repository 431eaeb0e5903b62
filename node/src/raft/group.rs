//! A running Raft group: start, propose, purge, stop.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::ClientWriteResult;
use openraft::{BasicNode, Config, Raft, ServerState, SnapshotPolicy, StepDownPolicy};
use tokio::sync::{Mutex, watch};

use super::ack_tracker::AckTracker;
use super::freshness::Freshness;
use super::leader_contact::LeaderContact;
use super::leadership;
use super::lease::Lease;
use super::log_retention::{LogRetention, MissingEntries};
use super::log_store::LogStore;
use super::network::NetworkFactory;
use super::repair::RepairSends;
use super::replica::{ApplyProgress, Replica, persisted_index};
use super::snapshot_receiver::SnapshotReceiver;
use super::snapshot_transfers::{SnapshotSettings, SnapshotTransfers};
use super::types::{Command, NodeId, ProposalCallback, StateMachine, TypeConfig};
use crate::rpc::{Peers, SnapshotAcks, SnapshotFrames};
use crate::store::keys::{GroupId, Rows};
use crate::store::{DiskSpace, DiskState, Engine, GroupDamage, StoreError};

/// Election timeouts, of the longest, without contact after which a leader counts as lost: the
/// first passes before a node stands for election, and an ordinary election takes no longer than
/// the second.
const LEADER_TIMEOUT_FACTOR: u32 = 2;

/// Time after a leadership transfer in which a change of leadership is attributed to it.
const TRANSFER_REASON_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason of a leadership transfer, as recorded by nodes other than the previous leader.
const REMOTE_TRANSFER_REASON: &str = "the previous leader transferred leadership";

/// Settings of a group.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// Number of this node.
    pub node: NodeId,
    /// Address at which other nodes reach this one.
    pub rpc_address: String,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Set if the group begins with this node alone while it has no members. Else it waits for its
    /// leader to add it.
    pub bootstraps: bool,
    /// Time after which an append without a response is sent again.
    pub append_timeout: Duration,
    /// Interval between a leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// Minimum of the random time without contact after which a follower stands for election.
    pub election_timeout_min: Duration,
    /// Maximum of that time.
    pub election_timeout_max: Duration,
    /// Bytes of the newest log entries kept in memory.
    pub log_cache_bytes: usize,
    /// Entries that stay in the log for members that lag, though the state has flushed them: their
    /// maximum number, and their maximum bytes.
    pub log_retention_limits: (usize, u64),
    /// Limits on sending and receiving snapshots.
    pub snapshots: SnapshotSettings,
    /// Free space on this node's disk.
    pub disk_space: Arc<DiskSpace>,
}

/// Result of a proposal, passed to its callback.
pub(crate) type ProposalResult<M> = Result<<M as StateMachine>::CommandResult, ProposeError>;

/// Error of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It entered no log: this node doesn't lead the group.
    #[error("not the leader")]
    NotLeader {
        /// Leader of the group, if known.
        leader: Option<NodeId>,
    },
    /// It may have been applied, or may be applied yet.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Summary of a group's state.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Id of the group.
    pub group: GroupId,
    /// Current term.
    pub term: u64,
    /// Leader, if known.
    pub leader: Option<NodeId>,
    /// Index of the last entry in this node's log.
    pub last_log_index: u64,
    /// Index of the last applied entry.
    pub applied_index: u64,
    /// Index up to which the log was purged.
    pub purged_index: u64,
    /// Set if this node answers linearizable reads.
    pub is_readable: bool,
    /// Set if this node's state is damaged on its disk.
    pub is_damaged: bool,
    /// Role of this node in the group.
    pub role: &'static str,
    /// Members with a vote.
    pub voters: Vec<NodeId>,
    /// Members without a vote.
    pub learners: Vec<NodeId>,
    /// Set while the members are being changed.
    pub is_changing: bool,
    /// Number of entries that each other member lacks, as far as the leader knows.
    pub lag: Vec<(NodeId, u64)>,
}

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
    /// Opens the group's log and state, and runs it on the current runtime. A group without members
    /// begins with this node alone, if the settings say so.
    pub async fn start(
        engine: Arc<Engine>,
        id: GroupId,
        settings: &GroupSettings,
        open: impl FnOnce(Rows) -> Result<M::State, StoreError>,
    ) -> io::Result<Self> {
        let log = LogStore::open(engine.clone(), id, settings.log_cache_bytes)?;
        let damage = engine.state.damage_of(id);
        let replica = Replica::<M>::open(engine.state.clone(), log.clone(), id, open)?;
        let replica = replica.with_repair(settings.node, damage.clone());
        let progress = replica.progress();
        let generations = replica.generations();
        let peers = settings.peers.clone();
        let name_of = move |node| peers.name_of(node);
        let transfers = SnapshotTransfers::new(id, settings.snapshots.clone(), name_of);
        let config = raft_config(id, settings)?;
        let acks = Arc::new(AckTracker::default());
        let timeout = settings.append_timeout;
        let retention = Arc::new(LogRetention::default());
        let network = NetworkFactory::new(
            settings.peers.clone(),
            timeout,
            acks.clone(),
            transfers.clone(),
            retention.clone(),
        );
        let raft = Raft::new(
            settings.node,
            Arc::new(config),
            network,
            log.clone(),
            replica,
        )
        .await
        .map_err(io::Error::other)?;
        let lease = Arc::new(Lease::default());
        let (leader_sender, leader) = watch::channel(None);
        let contact = Arc::new(LeaderContact::new(
            LEADER_TIMEOUT_FACTOR * settings.election_timeout_max,
        ));
        let leadership = leadership::LeaseRenewer {
            lease: lease.clone(),
            acks,
            contact: contact.clone(),
            duration: leadership::lease_duration(settings.election_timeout_max),
        };
        tokio::spawn(leadership::run_lease_renewal(
            raft.clone(),
            leadership,
            leader_sender,
        ));
        let db = engine.state.clone();
        let receptions =
            SnapshotReceiver::new(id, db, raft.clone(), generations, transfers.clone());
        let mut group = Self {
            id,
            node: settings.node,
            raft,
            engine,
            log,
            lease,
            freshness: Arc::default(),
            contact,
            leader,
            progress,
            log_retention_limits: settings.log_retention_limits,
            disk_space: settings.disk_space.clone(),
            voting_starts_at: Instant::now(),
            may_lead: Arc::new(AtomicBool::new(true)),
            lease_duration: leadership::lease_duration(settings.election_timeout_max),
            peers: settings.peers.clone(),
            membership_lock: Mutex::new(()),
            stopping: AtomicBool::new(false),
            transfers,
            snapshot_receiver: receptions,
            retention,
            damage,
            last_transfer: parking_lot::Mutex::default(),
            excluded_targets: parking_lot::Mutex::default(),
            repair_sends: RepairSends::default(),
        };
        group.initialize(settings).await?;
        Ok(group)
    }

    /// Bootstraps the group if the settings say so, and decides from when on the node votes.
    async fn initialize(&mut self, settings: &GroupSettings) -> io::Result<()> {
        let runtime_config = self.raft.runtime_config();
        if !self.raft.is_initialized().await.map_err(io::Error::other)? {
            runtime_config.elect(true);
            if settings.bootstraps {
                let members =
                    BTreeMap::from([(settings.node, BasicNode::new(&settings.rpc_address))]);
                self.raft
                    .initialize(members)
                    .await
                    .map_err(io::Error::other)?;
            }
        } else if self.raft.voter_ids().eq([settings.node]) {
            // A sole voter need not wait for any lease.
            runtime_config.elect(true);
            let elected = self.raft.trigger().elect(false).await;
            elected.map_err(io::Error::other)?;
        } else {
            self.voting_starts_at = Instant::now() + settings.election_timeout_max;
            let (raft, wait) = (self.raft.clone(), settings.election_timeout_max);
            let may_lead = self.may_lead.clone();
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let can_lead = may_lead.load(Ordering::Acquire);
                raft.runtime_config().elect(can_lead);
            });
        }
        Ok(())
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig<M>, Replica<M>> {
        &self.raft
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

    /// Proposes a command. `done` is called once, unless Raft stops before the outcome is known:
    /// then it is dropped.
    pub async fn propose_with(
        &self,
        command: M::Command,
        done: impl FnOnce(ProposalResult<M>) + Send + 'static,
    ) {
        let callback = ProposalCallback(Box::new(move |result| done(proposal_result::<M>(result))));
        let command = Command::new(command);
        // An error means that Raft has stopped; it has dropped the callback.
        let _ = self.raft.client_write_ff(command, Some(callback)).await;
    }

    /// Proposes a command, but only in `term`: it enters no log if this node leads another one, or
    /// none.
    pub async fn propose_in_term(
        &self,
        term: u64,
        command: M::Command,
        done: impl FnOnce(ProposalResult<M>) + Send + 'static,
    ) {
        let callback = ProposalCallback(Box::new(move |result| done(proposal_result::<M>(result))));
        let write = self.raft.write(Command::new(command)).with_leader(term);
        // An error means that Raft has stopped; it has dropped the callback.
        let _ = write.responder(callback).await;
    }

    /// Proposes a command and waits for its response.
    pub async fn propose(&self, command: M::Command) -> ProposalResult<M> {
        let (response, receiver) = tokio::sync::oneshot::channel();
        self.propose_with(command, move |result| {
            // The caller may have given up.
            let _ = response.send(result);
        })
        .await;
        receiver.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Purges the log up to what the state has flushed, except the newest entries, and those that a
    /// lagging member needs: see [`LogRetention`].
    pub async fn purge(&self) -> io::Result<()> {
        self.snapshot_receiver.discard_expired().await;
        let Some(flushed) = persisted_index(&self.engine.state, self.id)? else {
            return Ok(());
        };
        let (entries, bytes) = self.log_retention_limits;
        let Some(kept) = self.log.first_retained(entries, bytes) else {
            return Ok(());
        };
        let usual = kept.saturating_sub(1);
        let purged = self.log.purged_index();
        let lacking = self.missing_entries(purged);
        let needed = self.retention.needed_index(purged, lacking);
        let upto = flushed.min(self.retention.purge_limit(usual, needed));
        if upto <= purged {
            return Ok(());
        }
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(io::Error::other)?;
        trigger.purge_log(upto).await.map_err(io::Error::other)
    }

    /// Entries that other members lack of those still in this leader's log, or will lack once they
    /// have the snapshots that are being sent to them.
    fn missing_entries(&self, purged: u64) -> MissingEntries {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(others) = metrics.replication.as_ref() else {
            return MissingEntries::default();
        };
        let matched = |node: NodeId| others.get(&node)?.map(|at| at.index);
        let others = others.keys().filter(|node| **node != self.node);
        let lagging = others.clone().filter_map(|node| matched(*node));
        let retained = self.transfers.retained_index(matched);
        MissingEntries {
            lowest_known: lagging.filter(|at| *at >= purged).chain(retained).min(),
            is_complete: others.clone().all(|node| matched(*node).is_some()),
        }
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

    /// Returns a summary of the group's state.
    pub fn status(&self) -> GroupStatus {
        let (voters, learners) = self.members();
        let changing = self.is_changing();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let others = metrics.replication.iter().flatten();
        let lag = others
            .filter(|(node, _)| **node != self.node)
            .map(|(node, at)| {
                let matched = at.as_ref().map_or(0, |at| at.index);
                (*node, last.saturating_sub(matched))
            });
        GroupStatus {
            role: match metrics.state {
                ServerState::Leader => "leader",
                ServerState::Follower => "follower",
                ServerState::Learner => "learner",
                ServerState::Candidate => "candidate",
                ServerState::Shutdown => "stopped",
            },
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
            is_changing: changing,
            lag: lag.collect(),
            group: self.id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: self.progress.applied_index(),
            purged_index: self.log.purged_index(),
            is_readable: self.may_read(),
            is_damaged: self.damage.is_damaged(),
        }
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

fn proposal_result<M: StateMachine>(result: ClientWriteResult<TypeConfig<M>>) -> ProposalResult<M> {
    match result {
        Ok(written) => Ok(written.data),
        Err(ClientWriteError::ForwardToLeader(forward)) => Err(ProposeError::NotLeader {
            leader: forward.leader_id,
        }),
        // It was in this node's log: another leader may have it too.
        Err(_) => Err(ProposeError::Unknown),
    }
}

fn raft_config(id: GroupId, settings: &GroupSettings) -> io::Result<Config> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: id.to_string(),
        heartbeat_interval: millis(settings.heartbeat_interval),
        election_timeout_min: millis(settings.election_timeout_min),
        election_timeout_max: millis(settings.election_timeout_max),
        // Purging follows what the state has flushed: see `Group::purge`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // Until no other leader's lease can still be valid: see `raft_member`.
        enable_elect: false,
        // Acknowledged replication counts as a heartbeat.
        heartbeat_min_interval: Some(millis(settings.heartbeat_interval) / 2),
        max_payload_entries: 1024,
        quorum_loss_probe_interval: Some(2 * millis(settings.election_timeout_max)),
        // A leadership transfer closes its term first: see `leadership`.
        removed_leader_step_down: StepDownPolicy::Never,
        // A restored leader would trust a commit position that may lag here.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}
