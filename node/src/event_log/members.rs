//! Logs changes of the cluster's nodes and regions, and of their reachability.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{PresenceChange, PresenceTracker};

use super::text::{format_seconds, list_names};
use crate::cluster::{LocalGroups, MetadataState};
use crate::meta::{NodeInfo, NodeState, Topology};
use crate::types::{Nanos, NodeId};

/// Time until the first contact with a node.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns whether a topology may be the first that later ones are compared with: nothing newer is
/// available, so that no change of the past follows.
fn may_compare_first(metadata: MetadataState) -> bool {
    matches!(metadata, MetadataState::Current | MetadataState::NoMajority)
}

/// Returns whether a node was removed after a time.
fn is_removed_after(node: &NodeInfo, time: Nanos) -> bool {
    node.state == NodeState::Removed && node.removed_at > time
}

/// Nodes and regions as they were last logged.
pub(super) struct MembershipEvents {
    groups: Arc<LocalGroups>,
    nodes: PresenceTracker<NodeId>,
    regions: PresenceTracker<u32>,
    /// Regions without a reachable node.
    unreachable_regions: BTreeSet<u32>,
    /// New regions that aren't logged yet, with the time at which each was seen first.
    new_regions: BTreeMap<u32, Instant>,
    /// `None` until the metadata was current for the first time: what it catches up with before
    /// is history.
    topology: Option<Arc<Topology>>,
    /// Time of this node's start: what joins or is removed later is logged, also before the first
    /// comparison.
    started_at: Nanos,
}

impl MembershipEvents {
    /// Creates the state, with nothing logged yet.
    pub(super) fn new(groups: Arc<LocalGroups>) -> Self {
        Self {
            started_at: groups.clock.now(),
            groups,
            nodes: PresenceTracker::new(FIRST_CONTACT_TIMEOUT, Duration::ZERO),
            regions: PresenceTracker::new(FIRST_CONTACT_TIMEOUT, Duration::ZERO),
            unreachable_regions: BTreeSet::new(),
            new_regions: BTreeMap::new(),
            topology: None,
        }
    }

    /// Logs changes.
    pub(super) fn check(&mut self, now: Instant, metadata: MetadataState) {
        let topology = self.groups.catalog.topology();
        if self.topology.is_some() || may_compare_first(metadata) {
            self.log_changes(now, &topology);
        }
        self.log_new_regions(now, &topology);
        self.check_regions(now, &topology);
        self.check_nodes(now, &topology);
    }

    /// Logs what has changed since the topology that was logged last.
    fn log_changes(&mut self, now: Instant, topology: &Arc<Topology>) {
        let is_same = |logged: &Arc<Topology>| Arc::ptr_eq(logged, topology);
        if self.topology.as_ref().is_some_and(is_same) {
            return;
        }
        let before = self.topology.replace(topology.clone()).unwrap_or_else(|| {
            self.log_removed_since_start(topology);
            let me = self.groups.identity.node_id;
            topology.without_joined_after(self.started_at, me).into()
        });
        self.log_node_changes(&before, topology);
        self.log_region_changes(&before, topology);
        let numbers = topology.all_regions().keys();
        let new = numbers.filter(|number| before.region(**number).is_none());
        self.new_regions.extend(new.map(|number| (*number, now)));
    }

    /// Logs the nodes that were removed between this node's start and the first comparison.
    fn log_removed_since_start(&self, topology: &Topology) {
        let is_news = |node: &&NodeInfo| is_removed_after(node, self.started_at);
        for node in topology.nodes().iter().filter(is_news) {
            let name = self.groups.node_name(node.id);
            tracing::info!(node = name, "node removed from the cluster");
        }
    }

    fn log_node_changes(&self, before: &Topology, topology: &Topology) {
        for node in topology.nodes() {
            let name = self.groups.node_name(node.id);
            let old = before.node(node.id);
            match (old.map(|node| node.state), node.state) {
                (None, NodeState::Active) => {
                    let number = u64::from(node.id);
                    tracing::info!(node = name, number, "node joined the cluster");
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
                Some(old) if old.is_joining && !region.is_joining => {
                    tracing::info!(region = name, "region has joined and serves");
                }
                Some(old) if !old.is_removing && region.is_removing => {
                    tracing::warn!(region = name, "region is being removed");
                }
                // New ones are logged by `log_new_regions`.
                None | Some(_) => {}
            }
        }
        for (number, region) in before.all_regions() {
            if topology.region(*number).is_none() {
                tracing::warn!(region = region.name, "region removed from the cluster");
            }
        }
    }

    /// Logs new regions, each once the node that starts it is known, which is added after it.
    fn log_new_regions(&mut self, now: Instant, topology: &Topology) {
        let groups = &self.groups;
        self.new_regions.retain(|number, seen_at| {
            let Some(region) = topology.region(*number) else {
                return false;
            };
            let starter = region.bootstrap_node;
            let known_starter = starter.filter(|node| topology.node(*node).is_some());
            let is_late = now.duration_since(*seen_at) >= FIRST_CONTACT_TIMEOUT;
            if starter != known_starter && !is_late {
                return true;
            }
            let name = &region.name;
            let started_by = known_starter.map(|node| groups.node_name(node));
            tracing::warn!(
                region = name,
                started_by,
                "a new region joins the cluster; if that was not meant, `cloudkv-node admin \
                 remove-region {name}` removes it once its nodes are stopped"
            );
            false
        });
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
                    let reason = self.unreachable_region_reason(number, topology);
                    let region = topology.region_name(number);
                    tracing::warn!(
                        region,
                        reason,
                        "region not reached: changes are kept for it"
                    );
                }
                PresenceChange::Recovered(number, after) => {
                    self.unreachable_regions.remove(&number);
                    let (region, after) = (topology.region_name(number), format_seconds(after));
                    tracing::info!(region, after, "region reached again");
                }
            }
        }
    }

    /// Reason why no node of a region can be reached, for each of the first ones.
    fn unreachable_region_reason(&self, number: u32, topology: &Topology) -> String {
        let nodes: Vec<String> = topology
            .nodes_of(number)
            .map(|node| format!("{}: {}", node.rpc, self.groups.unreachable_reason(node.id)))
            .collect();
        list_names(&nodes)
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
                    let reason = self.groups.unreachable_reason(node);
                    let node = self.groups.node_name(node);
                    tracing::warn!(node, reason, "node not reached");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_catches_up_is_history() {
        for state in [
            MetadataState::Absent,
            MetadataState::NoContact,
            MetadataState::CatchingUp(None),
            MetadataState::CatchingUp(Some(1)),
        ] {
            assert!(!may_compare_first(state), "{state}");
        }
        assert!(may_compare_first(MetadataState::Current));
        assert!(may_compare_first(MetadataState::NoMajority));
    }
}
