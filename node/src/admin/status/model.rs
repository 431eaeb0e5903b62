//! The displayed part of the JSON of `/status`. `docs/operations/status.md` describes the fields. A
//! node of another version may leave some out.

use serde::Deserialize;

/// Status of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StatusReport {
    pub version: String,
    pub cluster: String,
    pub node: u64,
    pub name: String,
    pub region: String,
    pub shards: u64,
    pub clock_ok: bool,
    pub survives: String,
    pub unserved: Vec<UnservedGroup>,
    pub replica_alarms: u64,
    pub certificate: Option<CertificateReport>,
    pub regions: Vec<RegionReport>,
    pub held_for_regions: RetainedReport,
    pub nodes: Vec<NodeReport>,
    pub data_dir: String,
    pub accounts: u64,
    pub buckets: u64,
    pub disk_free_bytes: u64,
    pub disk_state: String,
    pub log_disk_bytes: u64,
    pub state_disk_bytes: u64,
    pub groups: Vec<GroupReport>,
    pub snapshots: Vec<SnapshotReport>,
}

impl StatusReport {
    /// Nodes of this node's region that weren't removed.
    pub(super) fn region_nodes(&self) -> impl Iterator<Item = &NodeReport> {
        let present = self.nodes.iter().filter(|node| !node.is_removed());
        present.filter(|node| node.region == self.region)
    }

    /// This node's region.
    pub(super) fn home_region(&self) -> Option<&RegionReport> {
        self.regions.iter().find(|region| region.here)
    }
}

/// A group that nobody serves.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UnservedGroup {
    pub group: String,
    pub voters: Vec<u64>,
    pub unreachable: Vec<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CertificateReport {
    pub days_left: u64,
    pub stale: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RetainedReport {
    pub bytes: u64,
    pub budget_bytes: u64,
    pub stage: String,
}

/// A region, and this node's replication to it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RegionReport {
    pub name: String,
    pub here: bool,
    pub joining: bool,
    pub leaving: bool,
    pub waits_for: Option<Vec<String>>,
    pub shards: Vec<RegionShardReport>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RegionShardReport {
    pub behind: u64,
    pub lag_ms: Option<f64>,
    pub silent_ms: Option<f64>,
    pub alarms: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeReport {
    pub id: u64,
    pub name: String,
    pub region: String,
    pub rpc: String,
    pub http: String,
    pub state: String,
    pub removed_seconds: Option<u64>,
    pub alive: bool,
    pub version: String,
    pub shards: u64,
    pub clock_offset_ms: Option<f64>,
    pub round_trip_ms: Option<f64>,
}

impl NodeReport {
    pub(super) fn is_removed(&self) -> bool {
        self.state == "removed"
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupReport {
    pub group: String,
    pub leader: Option<u64>,
    pub damaged: bool,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    pub changing: bool,
    /// Lag of the other members, as `node: entries` each.
    pub lag: Vec<String>,
}

impl GroupReport {
    pub(super) fn is_shard(&self) -> bool {
        self.group.starts_with("shard-")
    }

    /// Members that are behind, with the number of entries.
    pub(super) fn behind(&self) -> impl Iterator<Item = (u64, u64)> {
        self.lag.iter().filter_map(|lag| {
            let (node, entries) = lag.split_once(": ")?;
            let behind = (node.parse().ok()?, entries.parse().ok()?);
            (behind.1 > 0).then_some(behind)
        })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SnapshotReport {
    pub group: String,
    pub direction: String,
    pub node: u64,
    pub state: String,
    pub bytes: u64,
    pub mib_per_second: f64,
    pub error: Option<String>,
}
