//! Starts a group: opens its log and state, runs Raft on them, and bootstraps it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use openraft::{BasicNode, Raft};
use tokio::sync::{Mutex, watch};

use super::Group;
use super::settings::{GroupSettings, raft_config};
use crate::raft::ack_tracker::AckTracker;
use crate::raft::leader_contact::LeaderContact;
use crate::raft::lease::Lease;
use crate::raft::lease_renewal::{LeaseRenewer, lease_duration, run_lease_renewal};
use crate::raft::log_retention::LogRetention;
use crate::raft::log_store::LogStore;
use crate::raft::network::NetworkFactory;
use crate::raft::repair_sends::RepairSends;
use crate::raft::replica::Replica;
use crate::raft::snapshot_receiver::SnapshotReceiver;
use crate::raft::snapshot_transfers::SnapshotTransfers;
use crate::raft::types::{StateMachine, TypeConfig};
use crate::store::keys::{GroupId, Rows};
use crate::store::{Engine, StoreError};
use crate::types::NodeId;

/// Election timeouts, of the longest, without contact after which a leader counts as lost: the
/// first passes before a node stands for election, and an ordinary election takes no longer than
/// the second.
const LEADER_TIMEOUT_FACTOR: u32 = 2;

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
        let checkpoints = replica.checkpoints();
        let generations = replica.generations();
        let peers = settings.peers.clone();
        let name_of = move |node| peers.name_of(node);
        let transfers = SnapshotTransfers::new(id, settings.snapshots.clone(), name_of);
        let acks = Arc::new(AckTracker::default());
        let retention = Arc::new(LogRetention::default());
        let network = NetworkFactory::new(
            settings.peers.clone(),
            settings.append_timeout,
            acks.clone(),
            transfers.clone(),
            retention.clone(),
        );
        let raft = start_raft(id, settings, network, log.clone(), replica).await?;
        let renewal = start_lease_renewal(&raft, settings, acks);
        let db = engine.state.clone();
        let receptions =
            SnapshotReceiver::new(id, db, raft.clone(), generations, transfers.clone());
        let mut group = Self {
            id,
            node: settings.node,
            raft,
            engine,
            log,
            lease: renewal.lease,
            freshness: Arc::default(),
            contact: renewal.contact,
            leader: renewal.leader,
            progress,
            checkpoints,
            log_retention_limits: settings.log_retention_limits,
            disk_space: settings.disk_space.clone(),
            voting_starts_at: Instant::now(),
            may_lead: Arc::new(AtomicBool::new(true)),
            lease_duration: lease_duration(settings.election_timeout_max),
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
}

/// Starts openraft on the group's log and state.
async fn start_raft<M: StateMachine>(
    id: GroupId,
    settings: &GroupSettings,
    network: NetworkFactory,
    log: LogStore<M>,
    replica: Replica<M>,
) -> io::Result<Raft<TypeConfig<M>, Replica<M>>> {
    let config = raft_config(id, settings)?;
    Raft::new(settings.node, Arc::new(config), network, log, replica)
        .await
        .map_err(io::Error::other)
}

/// State that the renewal of a group's lease keeps up to date.
struct RenewedLease {
    lease: Arc<Lease>,
    contact: Arc<LeaderContact>,
    leader: watch::Receiver<Option<NodeId>>,
}

/// Spawns the task that renews the group's lease.
fn start_lease_renewal<M: StateMachine>(
    raft: &Raft<TypeConfig<M>, Replica<M>>,
    settings: &GroupSettings,
    acks: Arc<AckTracker>,
) -> RenewedLease {
    let lease = Arc::new(Lease::default());
    let (leader_sender, leader) = watch::channel(None);
    let contact = Arc::new(LeaderContact::new(
        LEADER_TIMEOUT_FACTOR * settings.election_timeout_max,
    ));
    let renewer = LeaseRenewer {
        lease: lease.clone(),
        acks,
        contact: contact.clone(),
        duration: lease_duration(settings.election_timeout_max),
    };
    tokio::spawn(run_lease_renewal(raft.clone(), renewer, leader_sender));
    RenewedLease {
        lease,
        contact,
        leader,
    }
}
