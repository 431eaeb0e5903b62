//! A running Raft group: start, propose, purge, stop.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::ClientWriteResult;
use openraft::{BasicNode, Config, Raft, ServerState, SnapshotPolicy};

use super::lease::Lease;
use super::log_store::LogStore;
use super::network::Network;
use super::replica::{Progress, Replica, persisted_index};
use super::types::{Callback, Command, Machine, NodeId, Types};
use crate::store::keys::{GroupId, Rows};
use crate::store::{Engine, StoreError};

/// How a group is run.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// This node.
    pub node: NodeId,
    /// Where other nodes reach this one.
    pub rpc: String,
    /// Time between a leader's heartbeats.
    pub heartbeat: Duration,
    /// A follower stands for election when it has heard nothing for a random time from this ...
    pub election_min: Duration,
    /// ... to this.
    pub election_max: Duration,
    /// Bytes of the newest log entries kept in memory.
    pub log_cache: usize,
    /// Entries that stay in the log though the state has flushed them, for members that lag.
    pub log_keep: u64,
}

/// What a proposal came to, given to its callback.
pub type Proposal<M> = Result<<M as Machine>::Response, ProposeError>;

/// Why a proposal brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It entered no log: this node doesn't lead the group.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// It may have been applied, or may be yet.
    #[error("the outcome is unknown")]
    Unknown,
}

/// A group's state at a glance.
#[derive(Clone, Debug)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// Its current term.
    pub term: u64,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
    /// Index of the last entry in this node's log.
    pub last_log: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Index up to which the log was purged.
    pub purged: u64,
    /// Whether this node answers reads.
    pub readable: bool,
}

/// A running group. Dropping it doesn't stop it: call [`Group::stop`].
pub struct Group<M: Machine> {
    id: GroupId,
    raft: Raft<Types<M>, Replica<M>>,
    engine: Arc<Engine>,
    log: LogStore<M>,
    lease: Arc<Lease>,
    progress: Arc<Progress>,
    log_keep: u64,
}

impl<M: Machine> Group<M> {
    /// Opens the group's log and state, and runs it on the current runtime. A group that has no
    /// members yet begins with this node alone.
    pub async fn start(
        engine: Arc<Engine>,
        id: GroupId,
        settings: &GroupSettings,
        open: impl FnOnce(Rows) -> Result<M::State, StoreError>,
    ) -> io::Result<Self> {
        let log = LogStore::open(engine.clone(), id, settings.log_cache)?;
        let replica = Replica::<M>::open(engine.state.clone(), id, open)?;
        let progress = replica.progress();
        let config = raft_config(id, settings)?;
        let raft = Raft::new(
            settings.node,
            Arc::new(config),
            Network,
            log.clone(),
            replica,
        )
        .await
        .map_err(io::Error::other)?;
        let lease = Arc::new(Lease::default());
        let log_keep = settings.log_keep;
        let group = Self {
            id,
            raft,
            engine,
            log,
            lease,
            progress,
            log_keep,
        };
        group.ensure_member(settings).await?;
        tokio::spawn(follow_leadership(group.raft.clone(), group.lease.clone()));
        Ok(group)
    }

    async fn ensure_member(&self, settings: &GroupSettings) -> io::Result<()> {
        if !self.raft.is_initialized().await.map_err(io::Error::other)? {
            let me = BTreeMap::from([(settings.node, BasicNode::new(&settings.rpc))]);
            self.raft.initialize(me).await.map_err(io::Error::other)?;
        } else if self.raft.voter_ids().eq([settings.node]) {
            // A sole voter need not wait for anybody's lease.
            self.raft
                .trigger()
                .elect(false)
                .await
                .map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Which group it is.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Whether a read that begins now may be answered from this node's state: see [`Lease`].
    pub fn may_read(&self) -> bool {
        self.lease.holds(&self.progress)
    }

    /// How far the group has applied on this node.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Proposes a command. `done` is called once, unless Raft stops before it knows the outcome:
    /// then it is dropped.
    pub async fn propose_with(
        &self,
        command: M::Command,
        done: impl FnOnce(Proposal<M>) + Send + 'static,
    ) {
        let callback = Callback(Box::new(move |result| done(outcome::<M>(result))));
        let command = Command(Arc::new(command));
        // A refusal means that Raft has stopped; it has dropped the callback.
        let _ = self.raft.client_write_ff(command, Some(callback)).await;
    }

    /// Proposes a command and waits for its answer.
    pub async fn propose(&self, command: M::Command) -> Proposal<M> {
        let (answer, wait) = tokio::sync::oneshot::channel();
        self.propose_with(command, move |result| {
            // Whoever asked may have given up.
            let _ = answer.send(result);
        })
        .await;
        wait.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Purges the log up to what the state has flushed, less the entries to keep.
    pub async fn purge(&self) -> io::Result<()> {
        let Some(flushed) = persisted_index(&self.engine.state, self.id)? else {
            return Ok(());
        };
        let upto = flushed.saturating_sub(self.log_keep);
        if upto <= self.log.purged_index() {
            return Ok(());
        }
        let trigger = self.raft.trigger();
        trigger.snapshot().await.map_err(io::Error::other)?;
        trigger.purge_log(upto).await.map_err(io::Error::other)
    }

    /// The group's state at a glance.
    pub fn status(&self) -> Status {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Status {
            group: self.id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: self.progress.applied_index(),
            purged: self.log.purged_index(),
            readable: self.may_read(),
        }
    }

    /// Waits until the group has ended and tells why; `Ok` if it was stopped.
    pub async fn ended(&self) -> Result<(), String> {
        // Of all metrics these change least; they end with the group.
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

    /// Answers no read any more, and stops Raft. Proposals whose outcome isn't known yet are
    /// dropped.
    pub async fn stop(&self) -> io::Result<()> {
        self.lease.close();
        self.raft.shutdown().await.map_err(io::Error::other)
    }
}

fn outcome<M: Machine>(result: ClientWriteResult<Types<M>>) -> Proposal<M> {
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
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election_min),
        election_timeout_max: millis(settings.election_max),
        // Purging follows what the state has flushed: see `Group::purge`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(2 * millis(settings.election_max)),
        // A restored leader would trust a commit position that may lag here.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}

/// Keeps the lease true to the group's leadership, until the group ends.
async fn follow_leadership<M: Machine>(raft: Raft<Types<M>, Replica<M>>, lease: Arc<Lease>) {
    let mut metrics = raft.server_metrics();
    loop {
        let led_term = {
            let metrics = metrics.borrow_watched();
            let leads = metrics.state == ServerState::Leader
                && metrics.vote.committed
                && metrics.vote.leader_id.voted_for == metrics.id;
            let sole_voter = metrics.membership_config.voter_ids().eq([metrics.id]);
            (leads && sole_voter).then_some(metrics.vote.leader_id.term)
        };
        match led_term {
            Some(term) => lease.lead(term, None),
            None => lease.follow(),
        }
        if metrics.changed().await.is_err() {
            lease.follow();
            return;
        }
    }
}
