//! Settings of the connections to other nodes, and of the Raft groups.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cloudkv_common::byte_budget::ByteBudget;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::endpoint::NodeEndpoint;
use crate::background::BackgroundScheduler;
use crate::calls::MAX_MESSAGE_BYTES;
use crate::clock::Clock;
use crate::cluster::Identity;
use crate::config::Config;
use crate::raft::{GroupSettings, SnapshotSettings};
use crate::rpc::{Peers, PeersSettings, RpcClientSettings, RpcRuntimes};
use crate::shard::{BatchSettings, ShardSettings};
use crate::store::DiskSpace;

/// Maximum number of queued writes per shard; their bytes are bounded over all shards.
const MAX_QUEUED_WRITES: usize = 8192;
/// Maximum number of write entries in flight per shard: writes that arrive meanwhile share the next
/// one.
const MAX_WRITES_IN_FLIGHT: usize = 1;
/// Maximum number of reads that wait for the disk.
const MAX_DISK_READS: usize = 1024;
/// Entries retained in each log for members that lag, and the maximum of their bytes.
const RETAINED_LOG_LIMITS: (usize, u64) = (1 << 14, 8 << 20);
/// Maximum number of pending calls to one node.
const MAX_PENDING_CALLS: usize = 65_536;

/// Settings of the RPC clients of other nodes.
pub(super) fn peers_settings(
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
pub(super) fn meta_settings(
    config: &Config,
    identity: &Identity,
    endpoint: &NodeEndpoint,
    peers: &Arc<Peers>,
    disk_space: &Arc<DiskSpace>,
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
        snapshots: SnapshotSettings::new(config.snapshot_percent),
        disk_space: disk_space.clone(),
    }
}

/// Settings of a shard's group, which lives in one region and fails over fast; the rest is as for
/// the metadata.
pub(super) fn shard_settings(
    config: &Config,
    identity: &Identity,
    meta: GroupSettings,
    (clock, clock_ok): (&Clock, Arc<AtomicBool>),
    disk: &Handle,
    stop: &CancellationToken,
) -> ShardSettings {
    let shards = usize::from(identity.shards.max(1));
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
        record_cache: config.record_cache_mib.bytes() / shards,
        recent_changes_bytes: config.recent_changes_mib.bytes() / shards,
        pinned_changes_bytes: config.pinned_changes_mib.bytes() / shards,
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
