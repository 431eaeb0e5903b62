//! The components of a node below its API.

use std::path::PathBuf;
use std::sync::Arc;

use super::endpoint::NodeEndpoint;
use crate::background::BackgroundScheduler;
use crate::cluster::{LocalGroups, ReadinessProbe};
use crate::geo::{RegionMonitor, ReplicationStatus, RetentionBudget};
use crate::raft::LogBudget;
use crate::store::{DiskSpace, Engine, WriteGate};

/// Everything that runs below the API.
pub struct Components {
    /// The node's groups, and what it knows of the other nodes.
    pub groups: Arc<LocalGroups>,
    /// Readiness of the groups.
    pub readiness: Arc<ReadinessProbe>,
    /// The node's endpoint.
    pub endpoint: NodeEndpoint,
    /// The storage engine.
    pub engine: Arc<Engine>,
    /// Free space of the disk.
    pub disk_space: Arc<DiskSpace>,
    /// Gate for the metadata's writes while disks fill up.
    pub metadata_gate: Arc<WriteGate>,
    /// Replication status per shard and region.
    pub replication_status: Arc<ReplicationStatus>,
    /// Disk budget of changes retained for other regions.
    pub retention_budget: Arc<RetentionBudget>,
    /// Background scheduler for sending to regions that catch up.
    pub background: BackgroundScheduler,
    /// Budget of the log that is retained for members that lag.
    pub log_budget: Arc<LogBudget>,
    /// The data directory.
    pub data_dir: PathBuf,
}

impl Components {
    /// Monitor of the replication between regions.
    pub(super) fn region_monitor(&self) -> RegionMonitor {
        RegionMonitor {
            groups: self.groups.clone(),
            replication: self.replication_status.clone(),
        }
    }
}
