//! The storage, the metadata group and the shard groups of a node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::cluster::{Identity, IdentityError, Wanted};
use crate::config::Config;
use crate::meta::{self, Catalog, Meta, MetaState};
use crate::raft::{Group, GroupSettings};
use crate::service::{Directory, DirectorySettings, Keyspace, Service, Shards};
use crate::shard::{self, BatchSettings, QueueBudget, ShardHandle, ShardSettings};
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings, OpenError};

/// Writes that may wait per shard; their bytes are bounded over all shards.
const WRITE_QUEUE: usize = 8192;
/// Entries of writes under way per shard.
const WRITES_IN_FLIGHT: usize = 2;
/// Reads that may wait for the disk.
const DISK_READS: usize = 1024;
/// Entries kept in each log for members that lag.
const LOG_KEEP: u64 = 1024;
/// Number of the first region.
const FIRST_REGION: u32 = 1;

/// Why a node doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its data directory belongs to something else.
    #[error(transparent)]
    Identity(#[from] IdentityError),
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

/// All that runs below the API.
pub struct Groups {
    /// Who the node is.
    pub identity: Identity,
    /// Its storage.
    pub engine: Arc<Engine>,
    /// Its clock.
    pub clock: Clock,
    /// The metadata.
    pub meta: Arc<Group<Meta>>,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// The shards.
    pub shards: Shards,
}

impl Groups {
    /// Opens the data directory and starts all groups on the current runtime. `stop` ends their
    /// housekeeping.
    pub async fn start(config: &Config, stop: &CancellationToken) -> Result<Self, StartError> {
        let engine = Arc::new(Engine::open(&config.data_dir, &engine_settings(config))?);
        let wanted = Wanted {
            region: config.region.to_string(),
            shards: config.shards,
        };
        let identity = Identity::open(&config.data_dir, &wanted)?;
        let clock = Clock::new();
        let (meta, catalog) = start_meta(&engine, config, &identity).await?;
        let shards = start_shards(&engine, config, &identity, &clock, stop).await?;
        Ok(Self {
            identity,
            engine,
            clock,
            meta,
            catalog,
            shards,
        })
    }

    /// What the API asks for.
    pub fn service(&self, config: &Config) -> Service {
        let keyspace = Keyspace::new(self.shards.clone(), config.request_timeout);
        let settings = DirectorySettings {
            self_service: config.plans_self_service,
            max_accounts: config.max_accounts,
            max_buckets: config.max_buckets,
            stats_interval: config.stats_interval,
            timeout: config.request_timeout,
            account_idle_ttl: config.account_idle_ttl.unwrap_or(Duration::ZERO),
        };
        let (meta, catalog) = (self.meta.clone(), self.catalog.clone());
        let (shards, clock) = (self.shards.clone(), self.clock.clone());
        let directory = Directory::new(meta, catalog, shards, clock, settings);
        Service {
            keyspace,
            directory,
        }
    }

    /// Founds the cluster if it is new. Refused, and harmless, if it is founded already.
    pub async fn found(&self) {
        if !self.catalog.header().cluster_id.is_empty() {
            return;
        }
        let found = pb::FoundCluster {
            cluster_id: self.identity.cluster_id.clone(),
            shards: u32::from(self.identity.shards),
            level: meta::LEVEL,
            region: self.identity.region.clone(),
            incarnation: self.identity.incarnation,
            plans: meta::default_plans(),
        };
        let command = pb::MetaCommand {
            time: self.clock.now(),
            kind: Some(Command::Found(found)),
        };
        // What came of it shows in the catalog.
        let _ = self.meta.propose(command).await;
    }

    /// What doesn't answer requests yet, or no more.
    pub fn readiness(&self) -> Vec<(String, bool)> {
        let founded = !self.catalog.header().cluster_id.is_empty();
        let meta = (GroupId::META.to_string(), founded && self.meta.may_read());
        let shards = self
            .shards
            .iter()
            .map(|shard| (shard.group().id().to_string(), shard.serves()));
        std::iter::once(meta).chain(shards).collect()
    }

    /// Waits until everything answers requests, founding the cluster on the way.
    pub async fn ready(&self) {
        let mut wait = Duration::from_millis(1);
        while !self.readiness().iter().all(|(_, ready)| *ready) {
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

    /// Purges all logs up to what the state has flushed.
    pub async fn purge(&self) -> io::Result<()> {
        self.meta.purge().await?;
        for shard in self.shards.iter() {
            shard.group().purge().await?;
        }
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

fn engine_settings(config: &Config) -> EngineSettings {
    EngineSettings {
        block_cache: config.block_cache_bytes(),
        write_buffer: config.write_buffer_mib.bytes(),
    }
}

/// The metadata group spans regions: its timers allow for two slow round trips.
fn meta_settings(config: &Config, identity: &Identity) -> GroupSettings {
    GroupSettings {
        node: identity.node_id,
        rpc: config.rpc.to_string(),
        heartbeat: Duration::from_millis(500),
        election_min: Duration::from_millis(1500),
        election_max: Duration::from_millis(3000),
        log_cache: config.log_cache_mib.bytes() / (usize::from(identity.shards) + 1),
        log_keep: LOG_KEEP,
    }
}

/// A shard's group lives in one region and fails over fast.
fn shard_group_settings(config: &Config, identity: &Identity) -> GroupSettings {
    GroupSettings {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(300),
        ..meta_settings(config, identity)
    }
}

async fn start_meta(
    engine: &Arc<Engine>,
    config: &Config,
    identity: &Identity,
) -> Result<(Arc<Group<Meta>>, Arc<Catalog>), StartError> {
    let failed = |source| StartError::Group {
        group: GroupId::META,
        source,
    };
    let db = engine.state.clone();
    let mut catalog = None;
    let settings = meta_settings(config, identity);
    let group = Group::start(engine.clone(), GroupId::META, &settings, |rows| {
        let state = MetaState::open(db, rows)?;
        catalog = Some(state.catalog());
        Ok(state)
    })
    .await
    .map_err(failed)?;
    let catalog = catalog.ok_or_else(|| failed(io::Error::other("its state was not opened")))?;
    Ok((Arc::new(group), catalog))
}

async fn start_shards(
    engine: &Arc<Engine>,
    config: &Config,
    identity: &Identity,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<Shards, StartError> {
    let settings = ShardSettings {
        group: shard_group_settings(config, identity),
        batch: BatchSettings {
            queue: WRITE_QUEUE,
            writes: config.max_batch_writes,
            bytes: config.max_batch_kib.bytes(),
            in_flight: WRITES_IN_FLIGHT,
        },
        budget: QueueBudget::new(config.proposal_queue_mib.bytes()),
        disk_reads: Arc::new(Semaphore::new(DISK_READS)),
        clock: clock.clone(),
        stop: stop.clone(),
    };
    let incarnation = identity.incarnation;
    let found = pb::Found {
        region: FIRST_REGION,
        incarnation,
        level: shard::LEVEL,
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
    Ok(Shards::new(handles))
}
