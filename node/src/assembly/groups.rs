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

/// Writes that may wait per shard; their bytes are bounded over all shards.
const WRITE_QUEUE: usize = 8192;
/// Entries of writes under way per shard: what comes meanwhile goes together in the next one.
const WRITES_IN_FLIGHT: usize = 1;
/// Reads that may wait for the disk.
const DISK_READS: usize = 1024;
/// Entries kept in each log for members that lag, and their bytes at most.
const LOG_KEEP: (usize, u64) = (1 << 14, 8 << 20);

/// Bytes of a single message between nodes.
pub(super) const MESSAGE_BYTES: usize = 32 << 20;
/// Calls to one node that may wait for a reply.
const PEER_CALLS: usize = 65_536;
/// Time for all groups to be handed over before a stop.
const HAND_OVER: Duration = Duration::from_millis(2500);

/// How often that is tried.
const HAND_OVER_TRIES: usize = 5;

/// Time after which a node that finds no leader for some shard serves users all the same.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// Why a node doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its log lacks what was synced.
    #[error("the log in data directory {} is damaged: {lost}. {advice}", .dir.display())]
    DamagedLog {
        /// The directory.
        dir: PathBuf,
        /// What is missing.
        lost: Lost,
        /// What to do.
        advice: String,
    },
    /// Its data directory belongs to something else.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No cluster takes it in.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Its data directory is marked.
    #[error("data directory {} must not be used: {why}", .dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        why: String,
    },
    /// A Raft group can't start.
    #[error("start group {group}")]
    Group {
        /// The group.
        group: GroupId,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where other nodes and routers reach this one, and how it reaches other nodes.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its port for other nodes.
    pub rpc: String,
    /// Its public API.
    pub http: String,
    /// Connects to other nodes.
    pub dialer: Dialer,
}

/// All that runs below the API.
pub struct Groups {
    /// Who the node is.
    pub identity: Identity,
    /// Where it is.
    pub place: Place,
    /// Its storage.
    pub engine: Arc<Engine>,
    /// The room on its disk.
    pub space: Arc<DiskSpace>,
    /// What the metadata takes while disks fill up.
    pub meta_gate: Arc<Gate>,
    /// Its clock.
    pub clock: Clock,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Their signs of life.
    pub vitals: Arc<Vitals>,
    /// The metadata.
    pub meta: Arc<Group<Meta>>,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// The shards.
    pub shards: Shards,
    /// How far other regions are.
    pub ledger: Arc<Ledger>,
    /// What may be held back for them.
    pub budget: Arc<Budget>,
    /// Times that this node's replicas differed from others.
    pub replica_alarms: Arc<AtomicU64>,
    /// Turns of sending what other regions missed.
    pub pace: Pace,
    /// What the log may take for members that lag.
    pub log_budget: LogBudget,
    /// Whether its metadata was once as new as it could be, since the start.
    pub had_metadata: AtomicBool,
    /// Where its data is.
    pub data_dir: PathBuf,
    /// When its groups were started.
    pub started: Instant,
}

impl Groups {
    /// Opens the data directory, joins a cluster if that is to be done, and starts all groups on
    /// the current runtime. `stop` ends their housekeeping.
    pub async fn start(
        config: &Config,
        place: Place,
        runtimes: &Runtimes,
        entry: Entry<'_>,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        let engine = Arc::new(open_engine(config).await?);
        check_mark(&config.data_dir)?;
        let low_water = config.disk_low_water_mib.bytes() as u64;
        let space = Arc::new(DiskSpace::new(&config.data_dir, low_water));
        let has_log = !engine.log.is_empty();
        let (identity, nodes) = enter(config, &place, has_log, &entry).await?;
        entry.progress.waits_for("its Raft groups to start");
        let peers = Peers::new(peers_settings(config, &identity, &place, runtimes));
        for node in nodes {
            peers.learn(node.id, &node.rpc);
        }
        let clock = Clock::with_offset(config.clock_file.clone());
        let snapshots = SnapshotSettings::new(config.snapshot_percent);
        let settings = meta_settings(config, &identity, &place, &peers, &space, &snapshots);
        let (meta, catalog) = start_meta(&engine, &settings).await?;
        let repair = meta.clone().repair_when_damaged();
        tokio::spawn(stop.clone().run_until_cancelled_owned(repair));
        for node in catalog.topology().nodes() {
            if node.state != NodeState::Removed {
                peers.learn(node.id, &node.rpc);
                peers.set_near(node.id, node.region == identity.region_number);
            }
        }
        // A node that is alone has nobody to compare its clock with.
        let clock_ok = Arc::new(AtomicBool::new(peers.known().is_empty()));
        let vitals = Vitals::new(clock.clone(), meta::LEVEL, clock_ok.clone());
        let time = (&clock, clock_ok);
        let disk = &runtimes.rest;
        let settings = shard_settings(config, &identity, settings, time, disk, stop);
        let handles = start_shards(&engine, &identity, settings).await?;
        let held = config.held_requests_mib.bytes();
        let shards = Shards::new(handles, peers.clone(), held, config.request_timeout);
        Ok(Self {
            identity,
            place,
            engine,
            space,
            meta_gate: Arc::default(),
            clock,
            peers,
            vitals,
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

    /// What the API asks for.
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

    /// All groups, by their numbers, as other nodes call them.
    pub fn members(&self) -> Vec<Arc<dyn Member>> {
        let meta: Arc<dyn Member> = self.meta.clone();
        let shards = self.shards.iter().map(|shard| {
            let group: Arc<dyn Member> = shard.group().clone();
            group
        });
        std::iter::once(meta).chain(shards).collect()
    }

    /// Founds the cluster if it is new. Refused, and harmless, if it is founded already.
    pub async fn found(&self) {
        if !self.identity.founder || !self.catalog.header().cluster_id.is_empty() {
            return;
        }
        let found = pb::FoundCluster {
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
            kind: Some(Command::Found(found)),
        };
        // What came of it shows in the catalog.
        let _ = self.meta.propose(command).await;
    }

    /// Gives the leadership of all groups away, as far as others can take it, before a stop.
    pub async fn hand_over(&self) {
        let others = self.peers.known();
        let all = async {
            let shards = self.shards.iter();
            let shards = shards.map(|shard| hand_over(shard.group(), &others));
            futures_util::join!(join_all(shards), hand_over(&self.meta, &others));
        };
        if tokio::time::timeout(HAND_OVER, all).await.is_err() {
            tracing::warn!("some groups could not be handed over in time");
        }
    }

    /// Waits until requests for keys are answered, founding the cluster on the way. A node that
    /// finds no leader for some shard is not waited for any longer than [`OPEN_WITHIN`]: those who
    /// ask for its keys are better told so than left without an answer.
    pub async fn serving(&self) {
        let mut wait = Duration::from_millis(1);
        while !self.serves_keys() {
            if self.is_open() && self.started.elapsed() > OPEN_WITHIN {
                return;
            }
            if self.meta.may_read() {
                self.found().await;
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(Duration::from_millis(50));
        }
    }

    /// Waits until a group has failed, and tells why.
    pub async fn failed(&self) -> String {
        use futures_util::stream::{FuturesUnordered, StreamExt};
        let mut ends = FuturesUnordered::new();
        ends.push(futures_util::future::Either::Left(self.meta.ended()));
        for shard in self.shards.iter() {
            ends.push(futures_util::future::Either::Right(shard.group().ended()));
        }
        while let Some(end) = ends.next().await {
            if let Err(why) = end {
                return why;
            }
        }
        std::future::pending().await
    }

    /// Purges all logs up to what the state has flushed, and what members that lag need no more; not
    /// for them if that takes too much of the disk.
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

/// Gives a group's leadership away. An election can fail, on a busy machine: then another is held.
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
    place: &Place,
    runtimes: &Runtimes,
) -> PeersSettings {
    PeersSettings {
        cluster_id: identity.cluster_id.clone(),
        me: identity.node_id,
        dialer: place.dialer.clone(),
        link: LinkSettings {
            calls: PEER_CALLS,
            queue_bytes: config.peer_queue_mib.bytes(),
            message_bytes: MESSAGE_BYTES,
        },
        runtimes: runtimes.clone(),
    }
}

/// The metadata group spans regions: its timers allow for two slow round trips.
fn meta_settings(
    config: &Config,
    identity: &Identity,
    place: &Place,
    peers: &Arc<Peers>,
    space: &Arc<DiskSpace>,
    snapshots: &SnapshotSettings,
) -> GroupSettings {
    GroupSettings {
        node: identity.node_id,
        rpc: place.rpc.clone(),
        peers: peers.clone(),
        founds: identity.founder,
        append_timeout: Duration::from_secs(5),
        heartbeat: Duration::from_millis(500),
        election_min: Duration::from_millis(1500),
        election_max: Duration::from_millis(3000),
        log_cache: config.log_cache_mib.bytes() / (usize::from(identity.shards) + 1),
        log_keep: LOG_KEEP,
        snapshots: snapshots.clone(),
        space: space.clone(),
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

/// A shard's group lives in one region and fails over fast; the rest is as for the metadata.
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
    let found = pb::Found {
        region: identity.region_number,
        incarnation: identity.incarnation,
        level: shard::LEVEL,
        adopts: identity.adopts,
    };
    // In parallel: each replays its log.
    let starts = (0..identity.shards).map(|number| {
        let (engine, settings) = (engine.clone(), settings.clone());
        tokio::spawn(async move {
            let started = ShardHandle::start(engine, number, &settings, found).await;
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
