//! Combines the reports of nodes. Without I/O and clock.
//!
//! Regions and nodes are taken from the report with the highest applied index of the metadata. The
//! leaders of a region's shards are taken from the reports of its nodes: first from a node that
//! reports to lead and to serve, then from others, for a leader that doesn't report itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cloudkv_common::node_id::NodeId;
use cloudkv_proto::v1 as pb;

use super::region_choice::RegionSample;
use super::view::{RegionView, TopologyView};
use crate::upstream::{ConnectSettings, Node};

/// Maximum number of shards of a cluster.
const MAX_SHARDS: u32 = 1 << 10;

/// Error of a report from a node of another cluster than that of the first one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is of cluster {theirs}, and this router serves cluster {ours}")]
pub(crate) struct ClusterMismatch {
    theirs: String,
    ours: String,
}

/// Reports of nodes, by the watched addresses.
#[derive(Debug)]
pub(crate) struct TopologyReports {
    connect: ConnectSettings,
    cluster: Option<String>,
    by_address: BTreeMap<String, pb::Topology>,
    /// The newest report of all, even if its node doesn't report any more.
    latest: pb::Topology,
    nodes: HashMap<NodeId, Arc<Node>>,
}

impl TopologyReports {
    /// Creates an empty set; `connect` has the parameters of connections to nodes.
    pub(crate) fn new(connect: ConnectSettings) -> Self {
        Self {
            connect,
            cluster: None,
            by_address: BTreeMap::new(),
            latest: pb::Topology::default(),
            nodes: HashMap::new(),
        }
    }

    /// Takes a report of the node at an address.
    pub(crate) fn update(
        &mut self,
        address: &str,
        report: pb::Topology,
    ) -> Result<(), ClusterMismatch> {
        let ours = self
            .cluster
            .get_or_insert_with(|| report.cluster_id.clone());
        if *ours != report.cluster_id {
            return Err(ClusterMismatch {
                theirs: report.cluster_id,
                ours: ours.clone(),
            });
        }
        let is_usable = !report.regions.is_empty() && (1..=MAX_SHARDS).contains(&report.shards);
        if is_usable && report.position >= self.latest.position {
            self.latest = report.clone();
            self.update_nodes();
        }
        if let Some(node) = self.nodes.get(&NodeId::from(report.node_id)) {
            node.set_draining(report.draining);
        }
        self.by_address.insert(address.to_owned(), report);
        Ok(())
    }

    /// Removes the report of the node at an address. Its draining state is kept until it reports
    /// another.
    pub(crate) fn remove(&mut self, address: &str) {
        self.by_address.remove(address);
    }

    /// Updates the nodes. Known nodes are kept with their state, unless their address has changed.
    fn update_nodes(&mut self) {
        let mut nodes = HashMap::new();
        for reported in &self.latest.nodes {
            let is_same =
                |node: &&Arc<Node>| node.http == reported.http && node.rpc == reported.rpc;
            let id = NodeId::from(reported.id);
            let known = self.nodes.get(&id).filter(is_same);
            let cluster_id = &self.latest.cluster_id;
            let addresses = (reported.http.as_str(), reported.rpc.as_str());
            let region = self.region_name(reported.region).unwrap_or("?");
            let new = || {
                let node = Node::new(cluster_id, id, addresses, &self.connect);
                Arc::new(node.in_region(region))
            };
            nodes.insert(id, known.cloned().unwrap_or_else(new));
        }
        self.nodes = nodes;
    }

    /// Nodes of the cluster.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// Advertised rpc addresses of the nodes.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.latest.nodes.iter().map(|node| node.rpc.as_str())
    }

    /// Returns whether a node reports at its own address: then seeds aren't needed.
    pub(crate) fn has_node_report(&self) -> bool {
        self.addresses()
            .any(|address| self.by_address.contains_key(address))
    }

    /// Returns whether any node reports.
    pub(crate) fn has_any_report(&self) -> bool {
        !self.by_address.is_empty()
    }

    /// Samples of the regions for the choice between them.
    pub(crate) fn samples(&self) -> Vec<RegionSample> {
        let regions = self.regions();
        let sample = |region: &RegionView| RegionSample {
            region: region.number,
            is_healthy: region.is_healthy(),
            round_trip: region.round_trip(),
        };
        regions.iter().map(sample).collect()
    }

    /// Number of a region.
    pub(crate) fn region_number(&self, name: &str) -> Option<u32> {
        let mut regions = self.latest.regions.iter();
        regions.find(|it| it.name == name).map(|it| it.number)
    }

    /// Name of a region.
    pub(crate) fn region_name(&self, number: u32) -> Option<&str> {
        let mut regions = self.latest.regions.iter();
        let region = regions.find(|it| it.number == number);
        region.map(|region| region.name.as_str())
    }

    /// Combines the reports into a view, with the current region; `None` before the first report.
    pub(crate) fn view(&self, current: u32) -> Option<TopologyView> {
        let regions = self.regions();
        let index = regions.iter().position(|region| region.number == current);
        (!regions.is_empty()).then(|| TopologyView {
            shards: u16::try_from(self.latest.shards).unwrap_or(u16::MAX),
            current: index.unwrap_or(0),
            regions,
        })
    }

    /// Regions with their nodes and leaders.
    pub(crate) fn regions(&self) -> Vec<RegionView> {
        let mut regions: Vec<&pb::TopologyRegion> = self.latest.regions.iter().collect();
        regions.sort_by_key(|region| region.number);
        regions
            .into_iter()
            .map(|region| self.region(region))
            .collect()
    }

    fn region(&self, region: &pb::TopologyRegion) -> RegionView {
        let members = self.latest.nodes.iter();
        let members = members.filter(|node| node.region == region.number);
        let nodes: Vec<Arc<Node>> = members
            .filter_map(|node| self.nodes.get(&NodeId::from(node.id)).cloned())
            .collect();
        let index_of = |id: NodeId| nodes.iter().position(|node| node.id == id);
        let leader = |shard| self.leader(region.number, shard).and_then(index_of);
        RegionView {
            number: region.number,
            name: region.name.clone(),
            leaders: (0..self.latest.shards as usize).map(leader).collect(),
            nodes,
        }
    }

    fn leader(&self, region: u32, shard: usize) -> Option<NodeId> {
        let reports = self
            .by_address
            .values()
            .filter(|report| report.region == region);
        let leaders = reports.filter_map(|report| {
            let node = NodeId::from(report.node_id);
            Some((node, report.leaders.get(shard)?))
        });
        let itself = leaders
            .clone()
            .find(|(_, reported)| reported.here)
            .map(|(node, _)| node);
        itself.or_else(|| {
            leaders
                .filter_map(|(_, reported)| NodeId::nonzero(reported.leader))
                .find(|leader| !self.has_report_of(*leader))
        })
    }

    fn has_report_of(&self, node: NodeId) -> bool {
        self.by_address
            .values()
            .any(|report| NodeId::from(report.node_id) == node)
    }
}

#[cfg(test)]
#[path = "reports_tests.rs"]
mod tests;
