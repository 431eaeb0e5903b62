//! Asks other nodes about the cluster on behalf of a node that the metadata may no longer reach:
//! whether the node was removed, since the removal doesn't reach it as an entry; and which nodes
//! exist, when a caller uses an unknown node ID.
//!
//! With certificates, a caller with an unknown node ID gets no answer (`rpc::callers`): a
//! certificate of the same CA must not be enough to impersonate any node. But a node that was cut
//! off for long may know none of the nodes that have taken over meanwhile, among them the
//! metadata's leader. So it asks the nodes that it knows, and those that its operator has
//! configured; each presents a certificate for the host that is dialled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use tokio::task::JoinHandle;

use super::joining::{Heard, ask_others};
use super::keeper::Keeper;
use crate::meta::{NodeInfo, NodeState};

/// Interval at which other nodes are queried.
const ASK_OTHERS: Duration = Duration::from_secs(5);
/// Same interval while a caller with an unknown node ID is seen.
const ASK_FOR_STRANGERS: Duration = Duration::from_millis(500);

/// Query to other nodes, and its pending answer.
#[derive(Default)]
pub(super) struct Hearsay {
    at: Option<Instant>,
    answer: Option<JoinHandle<Heard>>,
}

impl Hearsay {
    /// Takes the answer; `None` until it has arrived.
    async fn take(&mut self) -> Option<Heard> {
        if !self.answer.as_ref()?.is_finished() {
            return None;
        }
        self.answer.take()?.await.ok()
    }
}

impl Keeper {
    /// Handles the answers of other nodes and returns whether this node was removed. The nodes are
    /// queried now and then, and not waited for.
    pub(super) async fn hears_of_removal(&self, discovery: &mut Hearsay) -> bool {
        let report = discovery.take().await.unwrap_or_default();
        self.meet(&report.nodes);
        let interval = if self.peers.has_stranger() {
            ASK_FOR_STRANGERS
        } else {
            ASK_OTHERS
        };
        let is_due = discovery.at.is_none_or(|at| at.elapsed() > interval);
        if !report.removed && discovery.answer.is_none() && is_due {
            discovery.at = Some(Instant::now());
            discovery.answer = Some(self.ask(self.peers.take_stranger()));
        }
        report.removed
    }

    /// Learns nodes that aren't in this node's metadata yet.
    fn meet(&self, nodes: &[pb::Member]) {
        let topology = self.catalog.topology();
        for node in nodes {
            if topology.node(node.id).is_none() && !self.peers.knows(node.id) {
                tracing::info!(node = node.id, address = node.rpc, "node discovered");
                self.peers.learn(node.id, &node.rpc);
            }
        }
    }

    fn ask(&self, has_stranger: bool) -> JoinHandle<Heard> {
        let mut addresses = self.one_of_each_region();
        if has_stranger {
            addresses.extend(self.named.iter().cloned());
            addresses.sort();
            addresses.dedup();
        }
        addresses.retain(|address| *address != self.registration.rpc);
        let (dialer, identity) = (self.dialer.clone(), self.identity.clone());
        tokio::spawn(async move { ask_others(&dialer, &identity, &addresses).await })
    }

    /// Collects the addresses of one node in this region and of one in each other region, alive if
    /// any is.
    fn one_of_each_region(&self) -> Vec<String> {
        let topology = self.catalog.topology();
        let known = topology.nodes().iter();
        let candidates = known
            .filter(|node| node.id != self.identity.node_id && node.state != NodeState::Removed);
        let mut of_region = BTreeMap::new();
        for node in candidates {
            let chosen: &mut &NodeInfo = of_region.entry(node.region).or_insert(node);
            if !self.vitals.lives(chosen.id) {
                *chosen = node;
            }
        }
        of_region.values().map(|node| node.rpc.clone()).collect()
    }
}
