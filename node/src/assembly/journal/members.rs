//! Tells which nodes and regions there are, and which of them are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{Change, Presence};

use crate::assembly::groups::Groups;
use crate::assembly::start_log::seconds;
use crate::cluster::Roster;
use crate::meta::{NodeState, Topology};
use crate::raft::NodeId;

/// Time for a node to be heard for the first time.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// The nodes and regions as they were told last.
pub(super) struct Members {
    groups: Arc<Groups>,
    nodes: Presence<NodeId>,
    regions: Presence<u32>,
    /// Regions of which no node is reached.
    lost: BTreeSet<u32>,
    topology: Option<Arc<Topology>>,
}

impl Members {
    /// Nothing told yet.
    pub fn new(groups: Arc<Groups>) -> Self {
        Self {
            groups,
            nodes: Presence::new(HEARD_WITHIN, Duration::ZERO),
            regions: Presence::new(HEARD_WITHIN, Duration::ZERO),
            lost: BTreeSet::new(),
            topology: None,
        }
    }

    /// Tells what has changed.
    pub async fn look(&mut self, now: Instant) {
        let topology = self.groups.catalog.topology();
        let is_same = |told: &Arc<Topology>| Arc::ptr_eq(told, &topology);
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
                    tracing::info!(node = name, "node is decommissioned: its shards move away");
                }
                (Some(NodeState::Leaving), NodeState::Active) => {
                    tracing::info!(node = name, "node is recommissioned: it takes shards again");
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
                    let by = self.groups.node_name(region.founder);
                    tracing::warn!(
                        region = name,
                        by,
                        "a new region joins the cluster; if that was not meant, `cloudkv-node \
                         admin remove-region {name}` takes it back"
                    );
                }
                Some(old) if old.joining && !region.joining => {
                    tracing::info!(region = name, "region has joined, and serves");
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

    /// Keeps the list for those who find the data damaged: see [`Roster`].
    async fn keep_roster(&self, before: Option<&Topology>, topology: &Topology) {
        let roster = Roster::of(topology);
        if before.is_some_and(|before| Roster::of(before) == roster) {
            return;
        }
        let dir = self.groups.data_dir.clone();
        let kept = tokio::task::spawn_blocking(move || roster.keep(&dir)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "write nodes.json");
        }
    }

    fn look_at_regions(&mut self, now: Instant, topology: &Topology) {
        let here = self.groups.identity.region_number;
        let others = topology.regions().filter(|(number, _)| *number != here);
        let is_reached = |number| {
            let mut nodes = topology.nodes_of(number);
            nodes.any(|node| self.groups.vitals.lives(node.id))
        };
        let all = others.map(|(number, _)| (number, is_reached(number)));
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
                // That none of a region's nodes is reached was told.
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
