//! Wiring of the node's components: the service, the replication between regions, and the handlers
//! of calls.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::components::Components;
use crate::admin::{RejoinParticipant, RestartRequest};
use crate::api::Api;
use crate::background::BackgroundScheduler;
use crate::calls::CallHandlers;
use crate::cluster::{Admission, TopologyPublisher};
use crate::config::Config;
use crate::geo::GeoReplication;
use crate::service::{
    Directory, DirectorySettings, Exports, Keyspace, MetadataClient, RecordScans, Service, Shards,
    WatchSettings, Watches,
};

/// Maximum share of its time that this node scans shards for exports and backups, in percent:
/// users' requests get the rest.
const EXPORT_PERCENT: usize = 30;

impl Components {
    /// Builds the service that the API calls. What follows the shards for watchers runs on
    /// `runtime`.
    pub fn build_service(&self, config: &Config, runtime: &Handle) -> Service {
        let groups = &self.groups;
        let peers = &groups.peers;
        let queue_bytes = config.held_requests_mib.bytes();
        let timeout = config.request_timeout;
        let shards = Shards::new(groups.shards.clone(), peers.clone(), queue_bytes, timeout);
        let keyspace = Keyspace::new(
            shards.clone(),
            groups.catalog.clone(),
            timeout,
            config.session_wait,
        );
        let settings = DirectorySettings {
            region: groups.identity.region_number,
            self_service: config.plans_self_service,
            max_accounts: config.max_accounts,
            max_buckets: config.max_buckets,
            stats_interval: config.stats_interval,
            account_idle_ttl: config.account_idle_ttl.unwrap_or(Duration::ZERO),
        };
        let clock = groups.clock.clone();
        let metadata =
            MetadataClient::new(groups.meta.clone(), peers.clone(), clock.clone(), timeout);
        let directory = Directory::new(
            metadata,
            groups.catalog.clone(),
            shards.clone(),
            clock,
            settings,
            self.metadata_gate.clone(),
        );
        let watches = self.build_watches(config, shards.clone(), runtime);
        let scheduler = BackgroundScheduler::new(EXPORT_PERCENT);
        let scans = RecordScans::new(shards.clone(), scheduler.clone());
        let exports = Exports::new(shards, directory.clone(), scheduler, watches.clone());
        Service {
            keyspace,
            directory,
            watches,
            exports,
            scans,
        }
    }

    fn build_watches(&self, config: &Config, shards: Shards, runtime: &Handle) -> Watches {
        let settings = WatchSettings {
            max_watchers: config.max_watchers,
            max_bucket_watchers: config.max_bucket_watchers,
            max_address_watchers: config.address_watchers,
            bucket_buffer_bytes: config.watch_buffer_kib.bytes(),
            buffer_bytes: config.watch_buffers_mib.bytes(),
        };
        let identity = &self.groups.identity;
        let history = (identity.region_number, identity.incarnation);
        let catalog = self.groups.catalog.clone();
        Watches::new(shards, catalog, history, runtime.clone(), settings)
    }
}

/// Builds the replication to and from other regions.
pub(super) fn build_replication(components: &Components, service: &Service) -> GeoReplication {
    let groups = &components.groups;
    GeoReplication {
        local: pb::Peer {
            region: groups.identity.region_number,
            incarnation: groups.identity.incarnation,
        },
        shards: groups.shards.clone(),
        catalog: groups.catalog.clone(),
        peers: groups.peers.clone(),
        failure_detector: groups.failure_detector.clone(),
        clock: groups.clock.clone(),
        status: components.replication_status.clone(),
        propose: service.directory.metadata().proposer(),
        retention_budget: components.retention_budget.clone(),
        background: components.background.clone(),
        digest_permit: Arc::new(Semaphore::new(1)),
    }
}

/// Builds the handlers of the calls of other nodes and routers. `stop` is cancelled when a stop is
/// requested; `restart` ends the node so that its next start carries a recovery out.
pub(super) fn build_call_handlers(
    components: &Components,
    service: &Service,
    (geo, api): (Arc<GeoReplication>, Arc<Api>),
    (stop, restart): (&CancellationToken, &RestartRequest),
) -> CallHandlers {
    let groups = &components.groups;
    let metadata = service.directory.metadata();
    let admission = Admission {
        identity: groups.identity.clone(),
        catalog: groups.catalog.clone(),
        propose: metadata.proposer(),
        refresh: metadata.refresher(),
    };
    CallHandlers {
        members: groups.members(),
        disk_space: components.disk_space.clone(),
        service: service.clone(),
        geo,
        admission: Arc::new(admission),
        topology_publisher: TopologyPublisher {
            groups: groups.clone(),
            stop: stop.clone(),
        },
        api,
        rejoin: Arc::new(RejoinParticipant::new(
            groups.clone(),
            components.data_dir.clone(),
            restart.clone(),
        )),
        groups: groups.clone(),
    }
}
