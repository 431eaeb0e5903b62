//! Logs changes of the cluster's nodes and regions, and of their reachability.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{PresenceChange, PresenceTracker};

use super::text::format_seconds;
use crate::cluster::LocalGroups;
use crate::meta::{NodeState, Topology};
use crate::types::NodeId;

/// Time until the first contact with a node.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(3);

/// Nodes and regions as they were last logged.
pub(super) struct MembershipEvents {
    groups: Arc<LocalGroups>,
    nodes: PresenceTracker<NodeId>,
    regions: PresenceTracker<u32>,
    /// Regions without a reachable node.
    unreachable_regions: BTreeSet<u32>,
    topology: Option<Arc<Topology>>,
}

impl MembershipEvents {
    /// Creates the state, with nothing logged yet.
    pub(super) fn new(groups: Arc<LocalGroups>) -> Self {
        Self {
            groups,
            nodes: PresenceTracker::new(FIRST_CONTACT_TIMEOUT, Duration::ZERO),
            regions: PresenceTracker::new(FIRST_CONTACT_TIMEOUT, Duration::ZERO),
            unreachable_regions: BTreeSet::new(),
            topology: None,
        }
    }

    /// Logs changes.
    pub(super) fn check(&mut self, now: Instant) {
        let topology = self.groups.catalog.topology();
        let is_same = |logged: &Arc<Topology>| Arc::ptr_eq(logged, &topology);
        if !self.topology.as_ref().is_some_and(is_same) {
            let before = self.topology.replace(topology.clone());
            if let Some(before) = &before {
                self.log_node_changes(before, &topology);
                self.log_region_changes(before, &topology);
            }
        }
        self.check_regions(now, &topology);
        self.check_nodes(now, &topology);
    }

    fn log_node_changes(&self, before: &Topology, topology: &Topology) {
        for node in topology.nodes() {
            let name = self.groups.node_name(node.id);
            let old = before.node(node.id);
            match (old.map(|node| node.state), node.state) {
                (None, NodeState::Active) => {
                    tracing::info!(node = name, number = node.id, "node joined the cluster");
                }
                (Some(NodeState::Active), NodeState::Decommissioning) => {
                    tracing::info!(node = name, "decommissioning node: its shards move away");
                }
                (Some(NodeState::Decommissioning), NodeState::Active) => {
                    tracing::info!(
                        node = name,
                        "node was recommissioned: it takes shards again"
                    );
                }
                (Some(NodeState::Active | NodeState::Decommissioning), NodeState::Removed) => {
                    tracing::info!(node = name, "node removed from the cluster");
                }
                _ => {}
            }
        }
    }

    fn log_region_changes(&self, before: &Topology, topology: &Topology) {
        for (number, region) in topology.all_regions() {
            let name = &region.name;
            match before.region(*number) {
                None => {
                    let started_by = self.groups.node_name(region.bootstrap_node);
                    tracing::warn!(
                        region = name,
                        started_by,
                        "a new region joins the cluster; if that was not meant, `cloudkv-node \
                         admin remove-region {name}` removes it"
                    );
                }
                Some(old) if old.is_joining && !region.is_joining => {
                    tracing::info!(region = name, "region has joined and serves");
                }
                Some(old) if !old.is_removing && region.is_removing => {
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

    fn check_regions(&mut self, now: Instant, topology: &Topology) {
        let here = self.groups.identity.region_number;
        let others = topology
            .region_names()
            .filter(|(number, _)| *number != here);
        let is_reachable = |number| {
            let mut nodes = topology.nodes_of(number);
            nodes.any(|node| self.groups.failure_detector.is_alive(node.id))
        };
        let all = others.map(|(number, _)| (number, is_reachable(number)));
        for change in self.regions.update(now, &all.collect()) {
            match change {
                PresenceChange::Lost(number) => {
                    self.unreachable_regions.insert(number);
                    let region = topology.region_name(number);
                    tracing::warn!(region, "region not reached: changes are kept for it");
                }
                PresenceChange::Recovered(number, after) => {
                    self.unreachable_regions.remove(&number);
                    let (region, after) = (topology.region_name(number), format_seconds(after));
                    tracing::info!(region, after, "region reached again");
                }
            }
        }
    }

    fn check_nodes(&mut self, now: Instant, topology: &Topology) {
        let me = self.groups.identity.node_id;
        let nodes = topology.nodes().iter();
        let others = nodes.filter(|node| node.id != me && node.state != NodeState::Removed);
        let all: BTreeMap<NodeId, bool> = others
            .map(|node| (node.id, self.groups.failure_detector.is_alive(node.id)))
            .collect();
        for change in self.nodes.update(now, &all) {
            match change {
                // The loss of the whole region was logged.
                PresenceChange::Lost(node) if self.is_region_unreachable(node, topology) => {}
                PresenceChange::Lost(node) => {
                    let node = self.groups.node_name(node);
                    tracing::warn!(node, "node not reached");
                }
                PresenceChange::Recovered(node, after) => {
                    let (node, after) = (self.groups.node_name(node), format_seconds(after));
                    tracing::info!(node, after, "node reached again");
                }
            }
        }
    }

    fn is_region_unreachable(&self, node: NodeId, topology: &Topology) -> bool {
        let region = topology.node(node).map(|node| node.region);
        region.is_some_and(|region| self.unreachable_regions.contains(&region))
    }
}
