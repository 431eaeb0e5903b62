//! Asks other nodes about the cluster on behalf of a node that the metadata may no longer reach:
//! whether the node was removed, since the removal doesn't reach it as an entry; and which nodes
//! exist, when a caller uses an unknown node ID.
//!
//! With certificates, a caller with an unknown node ID gets no answer (`rpc::authorization`): a
//! certificate of the same CA must not be enough to impersonate any node. But a node that was cut
//! off for long may know none of the nodes that have taken over meanwhile, among them the
//! metadata's leader. So it asks the nodes that it knows, and those that its operator has
//! configured; each presents a certificate for the host that is dialled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use tokio::task::JoinHandle;

use super::joining::{MembershipReport, query_membership};
use super::placement_controller::PlacementController;
use crate::meta::{NodeInfo, NodeState};

/// Interval at which other nodes are queried.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);
/// Same interval while a caller with an unknown node ID is seen.
const STRANGER_DISCOVERY_INTERVAL: Duration = Duration::from_millis(500);

/// Query to other nodes, and its pending answer.
#[derive(Default)]
pub(super) struct PeerDiscovery {
    last_query: Option<Instant>,
    pending: Option<JoinHandle<MembershipReport>>,
}

impl PeerDiscovery {
    /// Takes the answer; `None` until it has arrived.
    async fn take_answer(&mut self) -> Option<MembershipReport> {
        if !self.pending.as_ref()?.is_finished() {
            return None;
        }
        self.pending.take()?.await.ok()
    }
}

impl PlacementController {
    /// Handles the answers of other nodes and returns whether this node was removed. The nodes are
    /// queried now and then, and not waited for.
    pub(super) async fn is_reported_removed(&self, discovery: &mut PeerDiscovery) -> bool {
        let report = discovery.take_answer().await.unwrap_or_default();
        self.learn_members(&report.members);
        let interval = if self.peers.has_unknown_caller() {
            STRANGER_DISCOVERY_INTERVAL
        } else {
            DISCOVERY_INTERVAL
        };
        let is_due = discovery
            .last_query
            .is_none_or(|at| at.elapsed() > interval);
        if !report.is_removed && discovery.pending.is_none() && is_due {
            discovery.last_query = Some(Instant::now());
            discovery.pending = Some(self.query_members(self.peers.take_unknown_caller()));
        }
        report.is_removed
    }

    /// Learns nodes that aren't in this node's metadata yet.
    fn learn_members(&self, nodes: &[pb::Member]) {
        let topology = self.catalog.topology();
        for node in nodes {
            if topology.node(node.id).is_none() && !self.peers.contains(node.id) {
                tracing::info!(node = node.rpc, number = node.id, "node discovered");
                self.peers.set_address(node.id, &node.rpc);
            }
        }
    }

    fn query_members(&self, has_stranger: bool) -> JoinHandle<MembershipReport> {
        let mut addresses = self.one_address_per_region();
        if has_stranger {
            addresses.extend(self.configured_addresses.iter().cloned());
            addresses.sort();
            addresses.dedup();
        }
        addresses.retain(|address| *address != self.registration.rpc);
        let (dialer, identity) = (self.dialer.clone(), self.identity.clone());
        tokio::spawn(async move { query_membership(&dialer, &identity, &addresses).await })
    }

    /// Collects the addresses of one node in this region and of one in each other region, alive if
    /// any is.
    fn one_address_per_region(&self) -> Vec<String> {
        let topology = self.catalog.topology();
        let known = topology.nodes().iter();
        let candidates = known
            .filter(|node| node.id != self.identity.node_id && node.state != NodeState::Removed);
        let mut of_region = BTreeMap::new();
        for node in candidates {
            let chosen: &mut &NodeInfo = of_region.entry(node.region).or_insert(node);
            if !self.failure_detector.is_alive(chosen.id) {
                *chosen = node;
            }
        }
        of_region.values().map(|node| node.rpc.clone()).collect()
    }
}
