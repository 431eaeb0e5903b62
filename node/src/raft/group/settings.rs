//! Settings of a group, and openraft's settings that follow from them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};

use crate::raft::snapshot_transfers::SnapshotSettings;
use crate::rpc::Peers;
use crate::store::DiskSpace;
use crate::store::keys::GroupId;
use crate::types::NodeId;

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

/// Builds openraft's settings of the group `id`.
pub(super) fn raft_config(id: GroupId, settings: &GroupSettings) -> io::Result<Config> {
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
