//! The displayed part of the JSON of `/status`. `docs/operations/status.md` describes the fields. A
//! node of another version may leave some out.

use serde::Deserialize;

use crate::types::NodeId;

/// Status of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StatusReport {
    pub version: String,
    pub cluster: String,
    pub node: NodeId,
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
    pub disk_low_water_bytes: u64,
    pub disk_state: String,
    pub log_disk_bytes: u64,
    pub state_disk_bytes: u64,
    pub groups: Vec<GroupReport>,
    pub snapshots: Vec<SnapshotReport>,
}

impl StatusReport {
    /// The metadata, while nobody serves it.
    pub(super) fn unserved_metadata(&self) -> Option<&UnservedGroup> {
        self.unserved.iter().find(|group| group.group == "meta")
    }

    /// Nodes of this node's region that weren't removed.
    pub(super) fn region_nodes(&self) -> impl Iterator<Item = &NodeReport> {
        let present = self.nodes.iter().filter(|node| !node.is_removed());
        present.filter(|node| node.is_in(&self.region))
    }

    /// Returns whether none of a region's nodes can be reached.
    pub(super) fn is_region_unreachable(&self, region: &str) -> bool {
        let present = self.nodes.iter().filter(|node| !node.is_removed());
        let mut nodes = present.filter(|node| node.is_in(region));
        nodes.all(NodeReport::is_unreachable)
    }

    /// Returns whether another node isn't heard of any more. Raft remembers one as a leader until
    /// there is another leader.
    pub(super) fn is_lost(&self, id: NodeId) -> bool {
        let mut others = self.nodes.iter().filter(|node| node.id != self.node);
        others.any(|node| node.id == id && !node.alive)
    }

    /// Returns whether a group is served, as far as the node knows.
    pub(super) fn is_served(&self, group: &GroupReport) -> bool {
        !self.unserved.iter().any(|it| it.group == group.group)
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
    pub voters: Vec<NodeId>,
    pub unreachable: Vec<NodeId>,
}

impl UnservedGroup {
    /// Returns whether most voters are reachable: then a leader is being elected.
    pub(super) fn has_majority(&self) -> bool {
        2 * self.unreachable.len() < self.voters.len()
    }
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
    pub id: NodeId,
    pub name: String,
    /// Absent if the region was removed, and its name isn't known any more.
    pub region: Option<String>,
    pub rpc: String,
    pub http: String,
    pub state: String,
    pub removed_seconds: Option<u64>,
    pub alive: bool,
    pub unreachable_reason: Option<String>,
    pub joining: bool,
    pub version: String,
    pub shards: u64,
    pub clock_offset_ms: Option<f64>,
    pub round_trip_ms: Option<f64>,
}

impl NodeReport {
    /// Name of its region.
    pub(super) fn region_name(&self) -> &str {
        self.region.as_deref().unwrap_or("?")
    }

    /// Returns whether its region has this name.
    pub(super) fn is_in(&self, region: &str) -> bool {
        self.region.as_deref() == Some(region)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.state == "removed"
    }

    /// Returns whether it should be reached, and isn't. One that was just admitted needn't be yet.
    pub(super) fn is_unreachable(&self) -> bool {
        !self.is_removed() && !self.alive && !self.joining
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupReport {
    pub group: String,
    pub leader: Option<NodeId>,
    pub damaged: bool,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    pub changing: bool,
    /// Lag of the other members, as `node: entries` each.
    pub lag: Vec<String>,
}

impl GroupReport {
    pub(super) fn is_shard(&self) -> bool {
        self.group.starts_with("shard-")
    }

    /// Members that are behind, with the number of entries.
    pub(super) fn behind(&self) -> impl Iterator<Item = (NodeId, u64)> {
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
    pub node: NodeId,
    pub state: String,
    pub bytes: u64,
    pub mib_per_second: f64,
    pub error: Option<String>,
}
