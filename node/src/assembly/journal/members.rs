//! Logs changes of the cluster's nodes and regions, and of their reachability.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{Change, Presence};

use crate::assembly::groups::Groups;
use crate::assembly::start_log::seconds;
use crate::cluster::Roster;
use crate::meta::{NodeState, Topology};
use crate::raft::NodeId;

/// Time until the first contact with a node.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Nodes and regions as they were last logged.
pub(super) struct Members {
    groups: Arc<Groups>,
    nodes: Presence<NodeId>,
    regions: Presence<u32>,
    /// Regions without a reachable node.
    lost: BTreeSet<u32>,
    topology: Option<Arc<Topology>>,
}

impl Members {
    /// Creates the state, with nothing logged yet.
    pub fn new(groups: Arc<Groups>) -> Self {
        Self {
            groups,
            nodes: Presence::new(HEARD_WITHIN, Duration::ZERO),
            regions: Presence::new(HEARD_WITHIN, Duration::ZERO),
            lost: BTreeSet::new(),
            topology: None,
        }
    }

    /// Logs changes.
    pub async fn look(&mut self, now: Instant) {
        let topology = self.groups.catalog.topology();
        let is_same = |logged: &Arc<Topology>| Arc::ptr_eq(logged, &topology);
        if !self.topology.as_ref().is_some_and(is_same) {
            let before = self.topology.replace(topology.clone());
            if let Some(before) = &before {
                self.tell_of_nodes(before, &topology);
                self.tell_of_regions(before, &topology);
            }
            self.keep_roster(before.as_deref(), &topology).await;
        }
        self.look_at_regions(now, &topology);
        self.look_at_nodes(now, &topology);
    }

    fn tell_of_nodes(&self, before: &Topology, topology: &Topology) {
        for node in topology.nodes() {
            let name = self.groups.node_name(node.id);
            let old = before.node(node.id);
            match (old.map(|node| node.state), node.state) {
                (None, NodeState::Active) => {
                    tracing::info!(node = name, number = node.id, "node joined the cluster");
                }
                (Some(NodeState::Active), NodeState::Leaving) => {
                    tracing::info!(node = name, "decommissioning node: its shards move away");
                }
                (Some(NodeState::Leaving), NodeState::Active) => {
                    tracing::info!(
                        node = name,
                        "node was recommissioned: it takes shards again"
                    );
                }
                (Some(NodeState::Active | NodeState::Leaving), NodeState::Removed) => {
                    tracing::info!(node = name, "node removed from the cluster");
                }
                _ => {}
            }
        }
    }

    fn tell_of_regions(&self, before: &Topology, topology: &Topology) {
        for (number, region) in topology.all_regions() {
            let name = &region.name;
            match before.region(*number) {
                None => {
                    let started_by = self.groups.node_name(region.founder);
                    tracing::warn!(
                        region = name,
                        started_by,
                        "a new region joins the cluster; if that was not meant, `cloudkv-node \
                         admin remove-region {name}` removes it"
                    );
                }
                Some(old) if old.joining && !region.joining => {
                    tracing::info!(region = name, "region has joined and serves");
                }
                Some(old) if !old.leaving && region.leaving => {
                    tracing::warn!(region = name, "region is being removed");
                }
                Some(_) => {}
            }
        }
        for (number, region) in before.all_regions() {
            if topology.region(*number).is_none() {
                tracing::warn!(region = region.name, "region removed from the cluster");
            }
        }
    }

    /// Saves the node list, which helps to recover a damaged data directory: see [`NodeList`].
    async fn keep_roster(&self, before: Option<&Topology>, topology: &Topology) {
        let node_list = Roster::of(topology);
        if before.is_some_and(|before| Roster::of(before) == node_list) {
            return;
        }
        let dir = self.groups.data_dir.clone();
        let saved = tokio::task::spawn_blocking(move || node_list.keep(&dir)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "writing nodes.json failed");
        }
    }

    fn look_at_regions(&mut self, now: Instant, topology: &Topology) {
        let here = self.groups.identity.region_number;
        let others = topology.regions().filter(|(number, _)| *number != here);
        let is_reachable = |number| {
            let mut nodes = topology.nodes_of(number);
            nodes.any(|node| self.groups.vitals.lives(node.id))
        };
        let all = others.map(|(number, _)| (number, is_reachable(number)));
        for change in self.regions.look(now, &all.collect()) {
            match change {
                Change::Lost(number) => {
                    self.lost.insert(number);
                    let region = topology.region_name(number);
                    tracing::warn!(region, "region not reached: changes are kept for it");
                }
                Change::Back(number, after) => {
                    self.lost.remove(&number);
                    let (region, after) = (topology.region_name(number), seconds(after));
                    tracing::info!(region, after, "region reached again");
                }
            }
        }
    }

    fn look_at_nodes(&mut self, now: Instant, topology: &Topology) {
        let me = self.groups.identity.node_id;
        let nodes = topology.nodes().iter();
        let others = nodes.filter(|node| node.id != me && node.state != NodeState::Removed);
        let all: BTreeMap<NodeId, bool> = others
            .map(|node| (node.id, self.groups.vitals.lives(node.id)))
            .collect();
        for change in self.nodes.look(now, &all) {
            match change {
                // The loss of the whole region was logged.
                Change::Lost(node) if self.is_of_lost_region(node, topology) => {}
                Change::Lost(node) => {
                    let node = self.groups.node_name(node);
                    tracing::warn!(node, "node not reached");
                }
                Change::Back(node, after) => {
                    let (node, after) = (self.groups.node_name(node), seconds(after));
                    tracing::info!(node, after, "node reached again");
                }
            }
        }
    }

    fn is_of_lost_region(&self, node: NodeId, topology: &Topology) -> bool {
        let region = topology.node(node).map(|node| node.region);
        region.is_some_and(|region| self.lost.contains(&region))
    }
}
