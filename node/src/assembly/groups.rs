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

use super::entry::{Entry, check_mark, enter, open_engine};
use super::log_budget::LogBudget;
use crate::clock::Clock;
use crate::cluster::{Identity, IdentityError, JoinError, Vitals};
use crate::config::Config;
use crate::geo::{Budget, Ledger};
use crate::meta::{self, Catalog, Meta, MetaState, NodeState};
use crate::pace::Pace;
use crate::raft::{Group, GroupSettings, Machine, Member, NodeId, SnapshotSettings};
use crate::rpc::{Dialer, LinkSettings, Peers, PeersSettings, Runtimes};
use crate::service::{Directory, DirectorySettings, Keyspace, Metadata, Service, Shards};
use crate::shard::{self, BatchSettings, QueueBudget, ShardHandle, ShardSettings};
use crate::store::keys::GroupId;
use crate::store::{DiskSpace, Engine, Gate, Lost, OpenError};

/// Maximum number of queued writes per shard; their bytes are bounded over all shards.
const WRITE_QUEUE: usize = 8192;
/// Maximum number of write entries in flight per shard: writes that arrive meanwhile share the next
/// one.
const WRITES_IN_FLIGHT: usize = 1;
/// Maximum number of reads that wait for the disk.
const DISK_READS: usize = 1024;
/// Entries retained in each log for members that lag, and the maximum of their bytes.
const LOG_KEEP: (usize, u64) = (1 << 14, 8 << 20);

/// Maximum size of a message between nodes, in bytes.
pub(super) const MESSAGE_BYTES: usize = 32 << 20;
/// Maximum number of pending calls to one node.
const PEER_CALLS: usize = 65_536;
/// Time to transfer the leadership of all groups before a stop.
const HAND_OVER: Duration = Duration::from_millis(2500);

/// Maximum number of transfer attempts per group.
const HAND_OVER_TRIES: usize = 5;

/// Time after which a node that finds no leader for some shard serves users nevertheless.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

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
        lost: Lost,
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
pub struct Place {
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
    pub place: Place,
    /// The storage engine.
    pub engine: Arc<Engine>,
    /// Free space of the disk.
    pub space: Arc<DiskSpace>,
    /// Gate for the metadata's writes while disks fill up.
    pub meta_gate: Arc<Gate>,
    /// The node's clock.
    pub clock: Clock,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Failure detector of the other nodes.
    pub vitals: Arc<Vitals>,
    /// The metadata group.
    pub meta: Arc<Group<Meta>>,
    /// In-memory view of the metadata.
    pub catalog: Arc<Catalog>,
    /// Handles of the region's shards.
    pub shards: Shards,
    /// Replication status per shard and region.
    pub ledger: Arc<Ledger>,
    /// Disk budget of changes retained for other regions.
    pub budget: Arc<Budget>,
    /// Number of times that this node's replicas differed from those of other nodes.
    pub replica_alarms: Arc<AtomicU64>,
    /// Background scheduler for sending to regions that catch up.
    pub pace: Pace,
    /// Budget of the log that is retained for members that lag.
    pub log_budget: LogBudget,
    /// Set once the metadata has been as new as possible since the start.
    pub had_metadata: AtomicBool,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Time at which the groups were started.
    pub started: Instant,
}

impl Groups {
    /// Opens the data directory, joins a cluster if necessary, and starts all groups on the current
    /// runtime. `stop` ends their background tasks.
    pub async fn start(
        config: &Config,
        endpoint: Place,
        runtimes: &Runtimes,
        membership: Entry<'_>,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let engine = Arc::new(open_engine(config).await?);
        check_mark(&config.data_dir)?;
        let low_water = config.disk_low_water_mib.bytes() as u64;
        let disk_space = Arc::new(DiskSpace::new(&config.data_dir, low_water));
        let has_log = !engine.log.is_empty();
        let (identity, nodes) = enter(config, &endpoint, has_log, &membership).await?;
        membership.progress.waits_for("its Raft groups to start");
        let peers = Peers::new(peers_settings(config, &identity, &endpoint, runtimes));
        for node in nodes {
            peers.learn(node.id, &node.rpc);
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
        let repair = meta.clone().repair_when_damaged();
        tokio::spawn(stop.clone().run_until_cancelled_owned(repair));
        for node in catalog.topology().nodes() {
            if node.state != NodeState::Removed {
                peers.learn(node.id, &node.rpc);
                peers.set_near(node.id, node.region == identity.region_number);
            }
        }
        // A single node has no other clock to compare its own with.
        let clock_ok = Arc::new(AtomicBool::new(peers.known().is_empty()));
        let failure_detector = Vitals::new(clock.clone(), meta::LEVEL, clock_ok.clone());
        let time = (&clock, clock_ok);
        let disk = &runtimes.rest;
        let settings = shard_settings(config, &identity, settings, time, disk, stop);
        let handles = start_shards(&engine, &identity, settings).await?;
        let queue_bytes = config.held_requests_mib.bytes();
        let shards = Shards::new(handles, peers.clone(), queue_bytes, config.request_timeout);
        Ok(Self {
            identity,
            place: endpoint,
            engine,
            space: disk_space,
            meta_gate: Arc::default(),
            clock,
            peers,
            vitals: failure_detector,
            meta,
            catalog,
            shards,
            ledger: Arc::default(),
            replica_alarms: Arc::default(),
            pace: Pace::new(config.geo_catch_up_percent),
            log_budget: LogBudget::new(
                config.log_retention_mib.bytes() as u64,
                config.data_dir.clone(),
            ),
            started: Instant::now(),
            had_metadata: AtomicBool::new(false),
            data_dir: config.data_dir.clone(),
            budget: Budget::new(
                config.geo_budget_percent,
                config.geo_budget_mib.bytes() as u64,
                config.data_dir.clone(),
            ),
        })
    }

    /// Builds the service that the API calls.
    pub fn service(&self, config: &Config) -> Service {
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
        let metadata = Metadata::new(meta, peers, clock.clone(), config.request_timeout);
        let (catalog, shards) = (self.catalog.clone(), self.shards.clone());
        let directory = Directory::new(
            metadata,
            catalog,
            shards,
            clock,
            settings,
            self.meta_gate.clone(),
        );
        Service {
            keyspace,
            directory,
        }
    }

    /// All groups, by number, as targets of other nodes' calls.
    pub fn members(&self) -> Vec<Arc<dyn Member>> {
        let meta: Arc<dyn Member> = self.meta.clone();
        let shards = self.shards.iter().map(|shard| {
            let group: Arc<dyn Member> = shard.group().clone();
            group
        });
        std::iter::once(meta).chain(shards).collect()
    }

    /// Bootstraps the cluster if it is new. If it exists already, the command is refused and has no
    /// effect.
    pub async fn found(&self) {
        if !self.identity.founder || !self.catalog.header().cluster_id.is_empty() {
            return;
        }
        let bootstrap = pb::FoundCluster {
            cluster_id: self.identity.cluster_id.clone(),
            shards: u32::from(self.identity.shards),
            level: meta::LEVEL,
            region: self.identity.region.clone(),
            incarnation: self.identity.incarnation,
            plans: meta::default_plans(),
            node: self.identity.node_id,
            rpc: self.place.rpc.clone(),
            http: self.place.http.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let command = pb::MetaCommand {
            time: self.clock.now(),
            kind: Some(Command::Found(bootstrap)),
        };
        // The outcome shows in the catalog.
        let _ = self.meta.propose(command).await;
    }

    /// Transfers the leadership of all groups before a stop, as far as other nodes can take it.
    pub async fn hand_over(&self) {
        let others = self.peers.known();
        let transfers = async {
            let shards = self.shards.iter();
            let shards = shards.map(|shard| hand_over(shard.group(), &others));
            futures_util::join!(join_all(shards), hand_over(&self.meta, &others));
        };
        if tokio::time::timeout(HAND_OVER, transfers).await.is_err() {
            tracing::warn!(
                timeout = ?HAND_OVER,
                "leadership transfer of some groups timed out"
            );
        }
    }

    /// Waits until requests for keys can be answered, and bootstraps the cluster if necessary. If
    /// some shard has no known leader, it waits no longer than [`SERVING_TIMEOUT`]: clients are
    /// better served with an error than with no answer.
    pub async fn serving(&self) {
        let mut delay = Duration::from_millis(1);
        while !self.serves_keys() {
            if self.is_open() && self.started.elapsed() > OPEN_WITHIN {
                return;
            }
            if self.meta.may_read() {
                self.found().await;
            }
            tokio::time::sleep(delay).await;
            delay = (2 * delay).min(Duration::from_millis(50));
        }
    }

    /// Waits until a group has failed, and returns the reason.
    pub async fn failed(&self) -> String {
        use futures_util::stream::{FuturesUnordered, StreamExt};
        let mut ends = FuturesUnordered::new();
        ends.push(futures_util::future::Either::Left(self.meta.ended()));
        for shard in self.shards.iter() {
            ends.push(futures_util::future::Either::Right(shard.group().ended()));
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
    pub async fn purge(&self) -> io::Result<()> {
        self.meta.purge().await?;
        for shard in self.shards.iter() {
            shard.group().purge().await?;
        }
        self.log_budget.keep(self);
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
async fn hand_over<M: Machine>(group: &Group<M>, others: &[NodeId]) {
    for _ in 0..HAND_OVER_TRIES {
        if group
            .hand_over(others, "the node that led is stopping")
            .await
        {
            return;
        }
    }
}

fn peers_settings(
    config: &Config,
    identity: &Identity,
    endpoint: &Place,
    runtimes: &Runtimes,
) -> PeersSettings {
    PeersSettings {
        cluster_id: identity.cluster_id.clone(),
        me: identity.node_id,
        dialer: endpoint.dialer.clone(),
        link: LinkSettings {
            calls: PEER_CALLS,
            queue_bytes: config.peer_queue_mib.bytes(),
            message_bytes: MESSAGE_BYTES,
        },
        runtimes: runtimes.clone(),
    }
}

/// Settings of the metadata group, which spans regions: its timers allow for two slow round trips.
fn meta_settings(
    config: &Config,
    identity: &Identity,
    endpoint: &Place,
    peers: &Arc<Peers>,
    disk_space: &Arc<DiskSpace>,
    snapshots: &SnapshotSettings,
) -> GroupSettings {
    GroupSettings {
        node: identity.node_id,
        rpc: endpoint.rpc.clone(),
        peers: peers.clone(),
        founds: identity.founder,
        append_timeout: Duration::from_secs(5),
        heartbeat: Duration::from_millis(500),
        election_min: Duration::from_millis(1500),
        election_max: Duration::from_millis(3000),
        log_cache: config.log_cache_mib.bytes() / (usize::from(identity.shards) + 1),
        log_keep: LOG_KEEP,
        snapshots: snapshots.clone(),
        space: disk_space.clone(),
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
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            append_timeout: Duration::from_secs(2),
            founds: identity.founder || identity.founds_region,
            ..meta
        },
        batch: BatchSettings {
            queue: WRITE_QUEUE,
            writes: config.max_batch_writes,
            bytes: config.max_batch_kib.bytes(),
            in_flight: WRITES_IN_FLIGHT,
        },
        record_cache: config.record_cache_mib.bytes() / usize::from(identity.shards.max(1)),
        budget: QueueBudget::new(config.proposal_queue_mib.bytes()),
        merge_budget: QueueBudget::new(config.geo_queue_mib.bytes()),
        merge_pace: Pace::new(config.geo_catch_up_percent),
        disk_reads: Arc::new(Semaphore::new(DISK_READS)),
        disk: disk.clone(),
        clock: clock.clone(),
        clock_ok,
        stop: stop.clone(),
    }
}

async fn start_shards(
    engine: &Arc<Engine>,
    identity: &Identity,
    settings: ShardSettings,
) -> Result<Vec<Arc<ShardHandle>>, StartError> {
    let bootstrap = pb::Found {
        region: identity.region_number,
        incarnation: identity.incarnation,
        level: shard::LEVEL,
        adopts: identity.adopts,
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
