//! What other nodes say of the cluster to a node that the metadata may not reach any more: whether it
//! was removed itself, since of that it gets no entry; and which nodes there are, when somebody calls
//! under a number that it doesn't know.
//!
//! Where there are certificates, who claims such a number is answered nothing (`rpc::callers`): a
//! certificate of the same CA must not be enough to be taken for any node that one likes. But a node
//! that was cut off for long may know none of those who have taken over meanwhile, the metadata's
//! leader among them. So it asks the nodes that it knows, and those that its operator named, each of
//! which shows a certificate for the host where it is dialled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use tokio::task::JoinHandle;

use super::joining::{Heard, ask_others};
use super::keeper::Keeper;
use crate::meta::{NodeInfo, NodeState};

/// Interval at which other nodes are asked.
const ASK_OTHERS: Duration = Duration::from_secs(5);
/// The same while somebody calls whom this node doesn't know.
const ASK_FOR_STRANGERS: Duration = Duration::from_millis(500);

/// A question to other nodes, and its answer.
#[derive(Default)]
pub(super) struct Hearsay {
    at: Option<Instant>,
    answer: Option<JoinHandle<Heard>>,
}

impl Hearsay {
    /// Their answer; `None` until it has come.
    async fn take(&mut self) -> Option<Heard> {
        if !self.answer.as_ref()?.is_finished() {
            return None;
        }
        self.answer.take()?.await.ok()
    }
}

impl Keeper {
    /// Takes up what others say; returns whether this node was removed. They are asked now and then,
    /// and not waited for.
    pub(super) async fn hears_of_removal(&self, hearsay: &mut Hearsay) -> bool {
        let heard = hearsay.take().await.unwrap_or_default();
        self.meet(&heard.nodes);
        let pause = if self.peers.has_stranger() {
            ASK_FOR_STRANGERS
        } else {
            ASK_OTHERS
        };
        let is_due = hearsay.at.is_none_or(|at| at.elapsed() > pause);
        if !heard.removed && hearsay.answer.is_none() && is_due {
            hearsay.at = Some(Instant::now());
            hearsay.answer = Some(self.ask(self.peers.take_stranger()));
        }
        heard.removed
    }

    /// Gets to know nodes that aren't in this node's metadata yet.
    fn meet(&self, nodes: &[pb::Member]) {
        let topology = self.catalog.topology();
        for node in nodes {
            if topology.node(node.id).is_none() && !self.peers.knows(node.id) {
                tracing::info!(node = node.rpc, number = node.id, "heard of a node");
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

    /// Addresses of one node in this region and of one in each other, which live if any does.
    fn one_of_each_region(&self) -> Vec<String> {
        let topology = self.catalog.topology();
        let nodes = topology.nodes().iter();
        let others = nodes
            .filter(|node| node.id != self.identity.node_id && node.state != NodeState::Removed);
        let mut of_region = BTreeMap::new();
        for node in others {
            let chosen: &mut &NodeInfo = of_region.entry(node.region).or_insert(node);
            if !self.vitals.lives(chosen.id) {
                *chosen = node;
            }
        }
        of_region.values().map(|node| node.rpc.clone()).collect()
    }
}
