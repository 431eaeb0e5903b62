//! Starts the components of a node: opens the storage, joins the cluster, and starts the metadata
//! and all shards.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cloudkv_proto::v1 as pb;
use tokio_util::sync::CancellationToken;

use super::components::Components;
use super::damage_advice::with_advice;
use super::endpoint::NodeEndpoint;
use super::errors::StartError;
use super::group_settings::{meta_settings, peers_settings, shard_settings};
use super::membership::{MembershipContext, check_not_marked, join_cluster, open_engine};
use super::recovery;
use crate::background::BackgroundScheduler;
use crate::clock::Clock;
use crate::cluster::{FailureDetector, Identity, LocalGroups, ReadinessProbe};
use crate::config::Config;
use crate::geo::RetentionBudget;
use crate::meta::{self, Catalog, Meta, MetaState, NodeState};
use crate::raft::{Group, GroupSettings, LogBudget, NodeId};
use crate::rpc::{Peers, RpcRuntimes};
use crate::shard::{self, ShardHandle, ShardSettings};
use crate::store::keys::GroupId;
use crate::store::{DiskSpace, Engine};

impl Components {
    /// Opens the data directory, joins a cluster if necessary, and starts all groups on the current
    /// runtime. `stop` ends their background tasks.
    pub async fn start(
        config: &Config,
        endpoint: NodeEndpoint,
        runtimes: &RpcRuntimes,
        membership: MembershipContext<'_>,
        stop: &CancellationToken,
    ) -> Result<Self, StartError> {
        Identity::check_format(&config.data_dir)?;
        let engine = Arc::new(open_engine(config).await?);
        check_not_marked(&config.data_dir)?;
        let recovered = recovery::carry_out(config, &endpoint.rpc, engine).await;
        let recovered = recovered.map_err(|error| with_advice(&config.data_dir, error))?;
        let engine = recovered.engine;
        let config = recovered.rejoin.as_ref().unwrap_or(config);
        let membership = MembershipContext {
            is_region_explicit: membership.is_region_explicit || recovered.rejoin.is_some(),
            ..membership
        };
        let low_water = config.disk_low_water_mib.bytes() as u64;
        let disk_space = Arc::new(DiskSpace::new(&config.data_dir, low_water));
        let has_log = !engine.log.is_empty();
        let (identity, nodes) = join_cluster(config, &endpoint, has_log, &membership).await?;
        recovery::finish_join(&config.data_dir, &identity)?;
        membership
            .report
            .set_waiting_for("its Raft groups to start");
        let peers = Peers::new(peers_settings(config, &identity, &endpoint, runtimes));
        for node in nodes {
            peers.set_address(NodeId::from(node.id), &node.rpc);
        }
        let settings = meta_settings(config, &identity, &endpoint, &peers, &disk_space);
        let groups = GroupsStart {
            config,
            runtimes,
            engine: &engine,
            stop,
        };
        let groups = groups.start(identity, peers, settings).await;
        let groups = groups.map_err(|error| with_advice(&config.data_dir, error))?;
        let groups = Arc::new(groups);
        Ok(Self {
            readiness: Arc::new(ReadinessProbe::new(groups.clone())),
            groups,
            endpoint,
            engine,
            disk_space,
            metadata_gate: Arc::default(),
            replication_status: Arc::default(),
            background: BackgroundScheduler::new(config.geo_catch_up_percent),
            log_budget: Arc::new(LogBudget::new(
                config.log_retention_mib.bytes() as u64,
                config.data_dir.clone(),
            )),
            data_dir: config.data_dir.clone(),
            retention_budget: RetentionBudget::new(
                config.geo_budget_percent,
                config.geo_budget_mib.bytes() as u64,
                config.data_dir.clone(),
            ),
        })
    }
}

/// Inputs for starting the groups of a member.
struct GroupsStart<'a> {
    config: &'a Config,
    runtimes: &'a RpcRuntimes,
    engine: &'a Arc<Engine>,
    /// Ends the groups' background tasks.
    stop: &'a CancellationToken,
}

impl GroupsStart<'_> {
    /// Starts the metadata, and then the shards. `settings` are those of the metadata.
    async fn start(
        self,
        identity: Identity,
        peers: Arc<Peers>,
        settings: GroupSettings,
    ) -> Result<LocalGroups, StartError> {
        let (config, stop) = (self.config, self.stop);
        let clock = Clock::with_offset(config.clock_file.clone());
        let (meta, catalog) = start_meta(self.engine, &settings).await?;
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
        let disk = &self.runtimes.general;
        let settings = shard_settings(config, &identity, settings, time, disk, stop);
        let shards = start_shards(self.engine, &identity, settings).await?;
        Ok(LocalGroups {
            identity,
            clock,
            peers,
            failure_detector,
            meta,
            catalog,
            shards,
            replica_alarms: Arc::default(),
        })
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

async fn start_shards(
    engine: &Arc<Engine>,
    identity: &Identity,
    settings: ShardSettings,
) -> Result<Vec<Arc<ShardHandle>>, StartError> {
    let bootstrap = pb::BootstrapShard {
        region: identity.region_number,
        incarnation: identity.incarnation,
        level: shard::FIRST_LEVEL,
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
