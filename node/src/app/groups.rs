//! The storage, the metadata group and the shard groups of a node.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::log_budget::LogBudget;
use super::membership::{MembershipContext, check_not_marked, join_cluster, open_engine};
use crate::background::BackgroundScheduler;
use crate::clock::Clock;
use crate::cluster::{FailureDetector, Identity, IdentityError, JoinError};
use crate::config::Config;
use crate::geo::{ReplicationStatus, RetentionBudget};
use crate::meta::{self, Catalog, Meta, MetaState, NodeState};
use crate::raft::{Group, GroupSettings, NodeId, RaftMember, SnapshotSettings, StateMachine};
use crate::rpc::{Dialer, Peers, PeersSettings, RpcClientSettings, RpcRuntimes};
use crate::service::{Directory, DirectorySettings, Keyspace, MetadataClient, Service, Shards};
use crate::shard::{self, BatchSettings, ByteBudget, ShardHandle, ShardSettings};
use crate::store::keys::GroupId;
use crate::store::{DiskSpace, Engine, LogDataLoss, OpenError, WriteGate};

/// Maximum number of queued writes per shard; their bytes are bounded over all shards.
const MAX_QUEUED_WRITES: usize = 8192;
/// Maximum number of write entries in flight per shard: writes that arrive meanwhile share the next
/// one.
const MAX_WRITES_IN_FLIGHT: usize = 1;
/// Maximum number of reads that wait for the disk.
const MAX_DISK_READS: usize = 1024;
/// Entries retained in each log for members that lag, and the maximum of their bytes.
const RETAINED_LOG_LIMITS: (usize, u64) = (1 << 14, 8 << 20);

/// Maximum size of a message between nodes, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Maximum number of pending calls to one node.
const MAX_PENDING_CALLS: usize = 65_536;
/// Time to transfer the leadership of all groups before a stop.
const LEADERSHIP_TRANSFER_TIMEOUT: Duration = Duration::from_millis(2500);

/// Maximum number of transfer attempts per group.
const MAX_TRANSFER_ATTEMPTS: usize = 5;

/// Time after which a node that finds no leader for some shard serves users nevertheless.
const SERVING_TIMEOUT: Duration = Duration::from_secs(5);

/// Reason for which a node can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log lacks synced records.
    #[error("the log in data directory {} is damaged: {lost}. {advice}", .dir.display())]
    DamagedLog {
        /// The directory.
        dir: PathBuf,
        /// The missing part of the log.
        lost: LogDataLoss,
        /// Advice for the operator.
        advice: String,
    },
    /// The data directory belongs to another node, region or cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No cluster admits the node.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The data directory is marked as unusable.
    #[error("data directory {} must not be used: {why}", .dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// The reason.
        why: String,
    },
    /// A Raft group can't be started.
    #[error("start group {group}")]
    Group {
        /// The group.
        group: GroupId,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Addresses at which other nodes and routers reach this node, and the dialer to reach them.
#[derive(Clone, Debug)]
pub struct NodeEndpoint {
    /// Advertised address of the rpc port.
    pub rpc: String,
    /// Advertised address of the public port.
    pub http: String,
    /// Dialer for connections to other nodes.
    pub dialer: Dialer,
}

/// Everything that runs below the API.
pub struct Groups {
    /// The node's identity.
    pub identity: Identity,
    /// The node's endpoint.
    pub endpoint: NodeEndpoint,
    /// The storage engine.
    pub engine: Arc<Engine>,
    /// Free space of the disk.
    pub disk_space: Arc<DiskSpace>,
    /// Gate for the metadata's writes while disks fill up.
    pub metadata_gate: Arc<WriteGate>,
    /// The node's clock.
    pub clock: Clock,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Failure detector of the other nodes.
    pub failure_detector: Arc<FailureDetector>,
    /// The metadata group.
    pub meta: Arc<Group<Meta>>,
    /// In-memory view of the metadata.
    pub catalog: Arc<Catalog>,
    /// Handles of the region's shards.
    pub shards: Shards,
    /// Replication status per shard and region.
    pub replication_status: Arc<ReplicationStatus>,
    /// Disk budget of changes retained for other regions.
    pub retention_budget: Arc<RetentionBudget>,
    /// Number of times that this node's replicas differed from those of other nodes.
    pub replica_alarms: Arc<AtomicU64>,
    /// Background scheduler for sending to regions that catch up.
    pub background: BackgroundScheduler,
    /// Budget of the log that is retained for members that lag.
    pub log_budget: LogBudget,
    /// Set once the metadata has been as new as possible since the start.
    pub was_metadata_current: AtomicBool,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Time at which the groups were started.
    pub started_at: Instant,
}

impl Groups {
    /// Opens the data directory, joins a cluster if necessary, and starts all groups on the current
    /// runtime. `stop` ends their background tasks.
    pub async fn start(
        config: &Config,
        endpoint: NodeEndpoint,
        runtimes: &RpcRuntimes,
        membership: MembershipContext<'_>,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let engine = Arc::new(open_engine(config).await?);
        check_not_marked(&config.data_dir)?;
        let low_water = config.disk_low_water_mib.bytes() as u64;
        let disk_space = Arc::new(DiskSpace::new(&config.data_dir, low_water));
        let has_log = !engine.log.is_empty();
        let (identity, nodes) = join_cluster(config, &endpoint, has_log, &membership).await?;
        membership
            .progress
            .set_waiting_for("its Raft groups to start");
        let peers = Peers::new(peers_settings(config, &identity, &endpoint, runtimes));
        for node in nodes {
            peers.set_address(node.id, &node.rpc);
        }
        let clock = Clock::with_offset(config.clock_file.clone());
        let snapshots = SnapshotSettings::new(config.snapshot_percent);
        let settings = meta_settings(
            config,
            &identity,
            &endpoint,
            &peers,
            &disk_space,
            &snapshots,
        );
        let (meta, catalog) = start_meta(&engine, &settings).await?;
        let repair = meta.clone().run_repair();
        tokio::spawn(stop.clone().run_until_cancelled_owned(repair));
        for node in catalog.topology().nodes() {
            if node.state != NodeState::Removed {
                peers.set_address(node.id, &node.rpc);
                peers.set_same_region(node.id, node.region == identity.region_number);
            }
        }
        // A single node has no other clock to compare its own with.
        let clock_ok = Arc::new(AtomicBool::new(peers.node_numbers().is_empty()));
        let failure_detector =
            FailureDetector::new(clock.clone(), meta::MAX_FEATURE_LEVEL, clock_ok.clone());
        let time = (&clock, clock_ok);
        let disk = &runtimes.general;
        let settings = shard_settings(config, &identity, settings, time, disk, stop);
        let handles = start_shards(&engine, &identity, settings).await?;
        let queue_bytes = config.held_requests_mib.bytes();
        let shards = Shards::new(handles, peers.clone(), queue_bytes, config.request_timeout);
        Ok(Self {
            identity,
            endpoint,
            engine,
            disk_space,
            metadata_gate: Arc::default(),
            clock,
            peers,
            failure_detector,
            meta,
            catalog,
            shards,
            replication_status: Arc::default(),
            replica_alarms: Arc::default(),
            background: BackgroundScheduler::new(config.geo_catch_up_percent),
            log_budget: LogBudget::new(
                config.log_retention_mib.bytes() as u64,
                config.data_dir.clone(),
            ),
            started_at: Instant::now(),
            was_metadata_current: AtomicBool::new(false),
            data_dir: config.data_dir.clone(),
            retention_budget: RetentionBudget::new(
                config.geo_budget_percent,
                config.geo_budget_mib.bytes() as u64,
                config.data_dir.clone(),
            ),
        })
    }

    /// Builds the service that the API calls.
    pub fn build_service(&self, config: &Config) -> Service {
        let keyspace = Keyspace::new(
            self.shards.clone(),
            config.request_timeout,
            config.session_wait,
        );
        let settings = DirectorySettings {
            region: self.identity.region_number,
            self_service: config.plans_self_service,
            max_accounts: config.max_accounts,
            max_buckets: config.max_buckets,
            stats_interval: config.stats_interval,
            account_idle_ttl: config.account_idle_ttl.unwrap_or(Duration::ZERO),
        };
        let (meta, peers, clock) = (self.meta.clone(), self.peers.clone(), self.clock.clone());
        let metadata = MetadataClient::new(meta, peers, clock.clone(), config.request_timeout);
        let (catalog, shards) = (self.catalog.clone(), self.shards.clone());
        let directory = Directory::new(
            metadata,
            catalog,
            shards,
            clock,
            settings,
            self.metadata_gate.clone(),
        );
        Service {
            keyspace,
            directory,
        }
    }

    /// All groups, by number, as targets of other nodes' calls.
    pub fn members(&self) -> Vec<Arc<dyn RaftMember>> {
        let meta: Arc<dyn RaftMember> = self.meta.clone();
        let shards = self.shards.iter().map(|shard| {
            let group: Arc<dyn RaftMember> = shard.group().clone();
            group
        });
        std::iter::once(meta).chain(shards).collect()
    }

    /// Bootstraps the cluster if it is new. If it exists already, the command is refused and has no
    /// effect.
    pub async fn bootstrap(&self) {
        if !self.identity.bootstraps_cluster || !self.catalog.header().cluster_id.is_empty() {
            return;
        }
        let bootstrap = pb::BootstrapCluster {
            cluster_id: self.identity.cluster_id.clone(),
            shards: u32::from(self.identity.shards),
            level: meta::MAX_FEATURE_LEVEL,
            region: self.identity.region.clone(),
            incarnation: self.identity.incarnation,
            plans: meta::default_plans(),
            node: self.identity.node_id,
            rpc: self.endpoint.rpc.clone(),
            http: self.endpoint.http.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let command = pb::MetaCommand {
            time: self.clock.now(),
            kind: Some(Command::Bootstrap(bootstrap)),
        };
        // The outcome shows in the catalog.
        let _ = self.meta.propose(command).await;
    }

    /// Transfers the leadership of all groups before a stop, as far as other nodes can take it.
    pub async fn transfer_leaderships(&self) {
        let others = self.peers.node_numbers();
        let transfers = async {
            let shards = self.shards.iter();
            let shards = shards.map(|shard| transfer_leadership(shard.group(), &others));
            futures_util::join!(join_all(shards), transfer_leadership(&self.meta, &others));
        };
        if tokio::time::timeout(LEADERSHIP_TRANSFER_TIMEOUT, transfers)
            .await
            .is_err()
        {
            tracing::warn!(
                timeout = ?LEADERSHIP_TRANSFER_TIMEOUT,
                "leadership transfer of some groups timed out"
            );
        }
    }

    /// Waits until requests for keys can be answered, and bootstraps the cluster if necessary. If
    /// some shard has no known leader, it waits no longer than [`SERVING_TIMEOUT`]: clients are
    /// better served with an error than with no answer.
    pub async fn wait_until_serving(&self) {
        let mut delay = Duration::from_millis(1);
        while !self.serves_keys() {
            if self.is_region_open() && self.started_at.elapsed() > SERVING_TIMEOUT {
                return;
            }
            if self.meta.may_read() {
                self.bootstrap().await;
            }
            tokio::time::sleep(delay).await;
            delay = (2 * delay).min(Duration::from_millis(50));
        }
    }

    /// Waits until a group has failed, and returns the reason.
    pub async fn wait_for_failure(&self) -> String {
        use futures_util::stream::{FuturesUnordered, StreamExt};
        let mut ends = FuturesUnordered::new();
        ends.push(futures_util::future::Either::Left(self.meta.wait_stopped()));
        for shard in self.shards.iter() {
            ends.push(futures_util::future::Either::Right(
                shard.group().wait_stopped(),
            ));
        }
        while let Some(outcome) = ends.next().await {
            if let Err(reason) = outcome {
                return reason;
            }
        }
        std::future::pending().await
    }

    /// Purges all logs up to the flushed state, except for entries that members that lag still
    /// need; those, too, if they take too much of the disk.
    pub async fn purge_logs(&self) -> io::Result<()> {
        self.meta.purge().await?;
        for shard in self.shards.iter() {
            shard.group().purge().await?;
        }
        self.log_budget.enforce(self);
        Ok(())
    }

    /// Stops all groups and flushes the state, so that the next start has nothing to replay.
    pub async fn stop(&self) -> io::Result<()> {
        for shard in self.shards.iter() {
            shard.group().stop().await?;
        }
        self.meta.stop().await?;
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || engine.state.flush())
            .await
            .map_err(io::Error::other)??;
        Ok(())
    }
}

/// Transfers a group's leadership. On a busy machine the election can fail: then it tries again.
async fn transfer_leadership<M: StateMachine>(group: &Group<M>, others: &[NodeId]) {
    for _ in 0..MAX_TRANSFER_ATTEMPTS {
        if group
            .transfer_leadership(others, "the node that led is stopping")
            .await
        {
            return;
        }
    }
}

fn peers_settings(
    config: &Config,
    identity: &Identity,
    endpoint: &NodeEndpoint,
    runtimes: &RpcRuntimes,
) -> PeersSettings {
    PeersSettings {
        cluster_id: identity.cluster_id.clone(),
        me: identity.node_id,
        dialer: endpoint.dialer.clone(),
        client: RpcClientSettings {
            max_calls: MAX_PENDING_CALLS,
            max_queue_bytes: config.peer_queue_mib.bytes(),
            max_message_bytes: MAX_MESSAGE_BYTES,
        },
        runtimes: runtimes.clone(),
    }
}

/// Settings of the metadata group, which spans regions: its timers allow for two slow round trips.
fn meta_settings(
    config: &Config,
    identity: &Identity,
    endpoint: &NodeEndpoint,
    peers: &Arc<Peers>,
    disk_space: &Arc<DiskSpace>,
    snapshots: &SnapshotSettings,
) -> GroupSettings {
    GroupSettings {
        node: identity.node_id,
        rpc_address: endpoint.rpc.clone(),
        peers: peers.clone(),
        bootstraps: identity.bootstraps_cluster,
        append_timeout: Duration::from_secs(5),
        heartbeat_interval: Duration::from_millis(500),
        election_timeout_min: Duration::from_millis(1500),
        election_timeout_max: Duration::from_millis(3000),
        log_cache_bytes: config.log_cache_mib.bytes() / (usize::from(identity.shards) + 1),
        log_retention_limits: RETAINED_LOG_LIMITS,
        snapshots: snapshots.clone(),
        disk_space: disk_space.clone(),
    }
}

async fn start_meta(
    engine: &Arc<Engine>,
    settings: &GroupSettings,
) -> Result<(Arc<Group<Meta>>, Arc<Catalog>), StartError> {
    let failed = |source| StartError::Group {
        group: GroupId::META,
        source,
    };
    let db = engine.state.clone();
    let mut catalog = None;
    let group = Group::start(engine.clone(), GroupId::META, settings, |rows| {
        let state = MetaState::open(db, rows)?;
        catalog = Some(state.catalog());
        Ok(state)
    })
    .await
    .map_err(failed)?;
    let catalog = catalog.ok_or_else(|| failed(io::Error::other("its state was not opened")))?;
    Ok((Arc::new(group), catalog))
}

/// Settings of a shard's group, which lives in one region and fails over fast; the rest is as for
/// the metadata.
fn shard_settings(
    config: &Config,
    identity: &Identity,
    meta: GroupSettings,
    (clock, clock_ok): (&Clock, Arc<AtomicBool>),
    disk: &Handle,
    stop: &CancellationToken,
) -> ShardSettings {
    ShardSettings {
        group: GroupSettings {
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            append_timeout: Duration::from_secs(2),
            bootstraps: identity.bootstraps_cluster || identity.bootstraps_region,
            ..meta
        },
        batch: BatchSettings {
            max_queued: MAX_QUEUED_WRITES,
            max_writes: config.max_batch_writes,
            max_bytes: config.max_batch_kib.bytes(),
            max_in_flight: MAX_WRITES_IN_FLIGHT,
        },
        record_cache: config.record_cache_mib.bytes() / usize::from(identity.shards.max(1)),
        write_budget: ByteBudget::new(config.proposal_queue_mib.bytes()),
        merge_budget: ByteBudget::new(config.geo_queue_mib.bytes()),
        merge_scheduler: BackgroundScheduler::new(config.geo_catch_up_percent),
        disk_reads: Arc::new(Semaphore::new(MAX_DISK_READS)),
        disk_runtime: disk.clone(),
        clock: clock.clone(),
        is_clock_ok: clock_ok,
        stop: stop.clone(),
    }
}

async fn start_shards(
    engine: &Arc<Engine>,
    identity: &Identity,
    settings: ShardSettings,
) -> Result<Vec<Arc<ShardHandle>>, StartError> {
    let bootstrap = pb::BootstrapShard {
        region: identity.region_number,
        incarnation: identity.incarnation,
        level: shard::MAX_FEATURE_LEVEL,
        must_seed: identity.is_seeded,
    };
    // In parallel, since each replays its log.
    let starts = (0..identity.shards).map(|number| {
        let (engine, settings) = (engine.clone(), settings.clone());
        tokio::spawn(async move {
            let started = ShardHandle::start(engine, number, &settings, bootstrap).await;
            let group = GroupId::shard(number);
            started.map_err(|source| StartError::Group { group, source })
        })
    });
    let mut handles = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        let joined = start.await.map_err(|error| StartError::Group {
            group: GroupId::META,
            source: io::Error::other(error),
        });
        handles.push(joined??);
    }
    Ok(handles)
}
