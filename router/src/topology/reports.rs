//! What nodes told, put together. Without I/O and clock.
//!
//! Of regions and nodes, the report that is furthest on in the metadata is believed. Who leads a
//! region's shards is told by the nodes of that region: first by who says of itself that it leads
//! and answers, then by others, of a node that isn't heard itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use http::HeaderValue;

use super::choice::Sample;
use super::node::Node;
use super::view::{RegionView, View};
use crate::upstream::Reach;

/// Shards that a cluster may have.
const MOST_SHARDS: u32 = 1 << 10;

/// A node belongs to another cluster than those heard before.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node is of cluster {theirs}, and this router serves cluster {ours}")]
pub struct OtherCluster {
    theirs: String,
    ours: String,
}

/// What nodes told, by the addresses that they were asked at.
#[derive(Debug)]
pub struct Reports {
    reach: Reach,
    cluster: Option<String>,
    heard: BTreeMap<String, pb::Topology>,
    /// The one that is furthest on, of all that were heard, also if its node is gone.
    latest: pb::Topology,
    nodes: HashMap<u64, Arc<Node>>,
}

impl Reports {
    /// Nothing heard yet; nodes will be reached as `reach` says.
    pub fn new(reach: Reach) -> Self {
        Self {
            reach,
            cluster: None,
            heard: BTreeMap::new(),
            latest: pb::Topology::default(),
            nodes: HashMap::new(),
        }
    }

    /// Takes what the node at an address says.
    pub fn take(&mut self, address: &str, report: pb::Topology) -> Result<(), OtherCluster> {
        let ours = self
            .cluster
            .get_or_insert_with(|| report.cluster_id.clone());
        if *ours != report.cluster_id {
            return Err(OtherCluster {
                theirs: report.cluster_id,
                ours: ours.clone(),
            });
        }
        let usable = !report.regions.is_empty() && (1..=MOST_SHARDS).contains(&report.shards);
        if usable && report.position >= self.latest.position {
            self.latest = report.clone();
            self.settle_nodes();
        }
        if let Some(node) = self.nodes.get(&report.node_id) {
            node.drains(report.draining);
        }
        self.heard.insert(address.to_owned(), report);
        Ok(())
    }

    /// The node at an address isn't heard any more. What it said of its own stop stays true until
    /// it says otherwise.
    pub fn lose(&mut self, address: &str) {
        self.heard.remove(address);
    }

    /// Keeps nodes, so that what is known of them stays; one at another address is another one.
    fn settle_nodes(&mut self) {
        let mut nodes = HashMap::new();
        for told in &self.latest.nodes {
            let is_same = |node: &&Arc<Node>| node.http == told.http && node.rpc == told.rpc;
            let same = self.nodes.get(&told.id).filter(is_same);
            let cluster_id = &self.latest.cluster_id;
            let places = (told.http.as_str(), told.rpc.as_str());
            let new = || Arc::new(Node::new(cluster_id, told.id, places, &self.reach));
            nodes.insert(told.id, same.cloned().unwrap_or_else(new));
        }
        self.nodes = nodes;
    }

    /// The nodes of the cluster.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }

    /// Where nodes can be asked, as they say themselves.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.latest.nodes.iter().map(|node| node.rpc.as_str())
    }

    /// Whether a node is heard at its own address: then seeds aren't needed.
    pub fn hears_a_node(&self) -> bool {
        self.addresses()
            .any(|address| self.heard.contains_key(address))
    }

    /// Whether any node is heard.
    pub fn hears_anybody(&self) -> bool {
        !self.heard.is_empty()
    }

    /// The regions as a choice between them needs them.
    pub fn samples(&self) -> Vec<Sample> {
        let regions = self.regions();
        let sample = |region: &RegionView| Sample {
            region: region.number,
            healthy: region.is_healthy(),
            round_trip: region.round_trip(),
        };
        regions.iter().map(sample).collect()
    }

    /// The number of a region.
    pub fn number(&self, name: &str) -> Option<u32> {
        let mut regions = self.latest.regions.iter();
        regions.find(|it| it.name == name).map(|it| it.number)
    }

    /// The name of a region.
    pub fn name(&self, number: u32) -> Option<&str> {
        let mut regions = self.latest.regions.iter();
        let region = regions.find(|it| it.number == number);
        region.map(|region| region.name.as_str())
    }

    /// All together, with the region that the global name stands for; `None` before anything was
    /// heard.
    pub fn view(&self, current: u32) -> Option<View> {
        let regions = self.regions();
        let place = regions.iter().position(|region| region.number == current);
        (!regions.is_empty()).then(|| View {
            shards: u16::try_from(self.latest.shards).unwrap_or(u16::MAX),
            current: place.unwrap_or(0),
            regions,
        })
    }

    /// The regions, with what is known of their nodes and leaders.
    pub fn regions(&self) -> Vec<RegionView> {
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
            .filter_map(|node| self.nodes.get(&node.id).cloned())
            .collect();
        let place = |id: u64| nodes.iter().position(|node| node.id == id);
        let leader = |shard| self.leader(region.number, shard).and_then(place);
        RegionView {
            number: region.number,
            header: HeaderValue::from_str(&region.name)
                .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            name: region.name.clone(),
            leaders: (0..self.latest.shards as usize).map(leader).collect(),
            nodes,
        }
    }

    fn leader(&self, region: u32, shard: usize) -> Option<u64> {
        let said = self.heard.values().filter(|report| report.region == region);
        let said = said.filter_map(|report| Some((report.node_id, report.leaders.get(shard)?)));
        let itself = said
            .clone()
            .find(|(_, said)| said.here)
            .map(|(node, _)| node);
        itself.or_else(|| {
            said.map(|(_, said)| said.leader)
                .find(|leader| *leader != 0 && !self.hears(*leader))
        })
    }

    fn hears(&self, node: u64) -> bool {
        self.heard.values().any(|report| report.node_id == node)
    }
}

#[cfg(test)]
#[path = "reports_tests.rs"]
mod tests;
