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
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use tokio::task::JoinHandle;

use super::failure_detector::FailureDetector;
use super::identity::Identity;
use super::joining::{MembershipReport, query_membership};
use crate::meta::{Catalog, NodeInfo, NodeState};
use crate::raft::NodeId;
use crate::rpc::{Dialer, Peers};

/// Interval at which other nodes are queried.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);
/// Same interval while a caller with an unknown node ID is seen.
const STRANGER_DISCOVERY_INTERVAL: Duration = Duration::from_millis(500);

/// Queries other nodes now and then, and learns the nodes that they know.
pub(super) struct PeerDiscovery {
    /// Identity of this node.
    pub identity: Identity,
    /// Address of this node's rpc port, as other nodes know it.
    pub own_address: String,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Failure detector for the other nodes.
    pub failure_detector: Arc<FailureDetector>,
    /// Connects to other nodes.
    pub dialer: Dialer,
    /// Addresses of other nodes that the operator has configured.
    pub configured_addresses: Vec<String>,
    /// The last query.
    pub query: MembershipQuery,
}

/// Query to other nodes, and its pending answer.
#[derive(Default)]
pub(super) struct MembershipQuery {
    sent_at: Option<Instant>,
    /// Number of queries so far.
    count: usize,
    pending: Option<JoinHandle<MembershipReport>>,
}

impl MembershipQuery {
    /// Takes the answer; `None` until it has arrived.
    async fn take_answer(&mut self) -> Option<MembershipReport> {
        if !self.pending.as_ref()?.is_finished() {
            return None;
        }
        self.pending.take()?.await.ok()
    }
}

impl PeerDiscovery {
    /// Handles the answers of other nodes and returns whether this node was removed. The nodes are
    /// queried now and then, and not waited for.
    pub(super) async fn is_reported_removed(&mut self) -> bool {
        let report = self.query.take_answer().await.unwrap_or_default();
        self.learn_members(&report.members);
        let interval = if self.peers.has_unknown_caller() {
            STRANGER_DISCOVERY_INTERVAL
        } else {
            DISCOVERY_INTERVAL
        };
        let is_due = self.query.sent_at.is_none_or(|at| at.elapsed() > interval);
        if !report.is_removed && self.query.pending.is_none() && is_due {
            self.query.sent_at = Some(Instant::now());
            self.query.count = self.query.count.wrapping_add(1);
            self.query.pending = Some(self.query_members(self.peers.take_unknown_caller()));
        }
        report.is_removed
    }

    /// Learns nodes that aren't in this node's metadata yet.
    fn learn_members(&self, nodes: &[pb::Member]) {
        let topology = self.catalog.topology();
        for node in nodes {
            let id = NodeId::from(node.id);
            if topology.node(id).is_none() && !self.peers.contains(id) {
                tracing::info!(node = node.rpc, number = node.id, "node discovered");
                self.peers.set_address(id, &node.rpc);
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
        addresses.retain(|address| *address != self.own_address);
        let (dialer, identity) = (self.dialer.clone(), self.identity.clone());
        tokio::spawn(async move { query_membership(&dialer, &identity, &addresses).await })
    }

    /// Collects the addresses of one node in this region and of one in each other region, alive if
    /// any is, and another one each time: nodes that were removed together, by a recovery by force,
    /// know nothing of it from each other.
    fn one_address_per_region(&self) -> Vec<String> {
        let topology = self.catalog.topology();
        let known = topology.nodes().iter();
        let candidates = known
            .filter(|node| node.id != self.identity.node_id && node.state != NodeState::Removed);
        let mut of_region: BTreeMap<u32, (Vec<&NodeInfo>, Vec<&NodeInfo>)> = BTreeMap::new();
        for node in candidates {
            let (alive, silent) = of_region.entry(node.region).or_default();
            match self.failure_detector.is_alive(node.id) {
                true => alive.push(node),
                false => silent.push(node),
            }
        }
        let chosen = of_region.values().filter_map(|(alive, silent)| {
            let nodes = if alive.is_empty() { silent } else { alive };
            nodes.get(self.query.count % nodes.len().max(1))
        });
        chosen.map(|node| node.rpc.clone()).collect()
    }
}
