//! The groups of this node, and what it knows of the nodes that host the others.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{FailureDetector, Identity};
use crate::clock::Clock;
use crate::meta::{Catalog, Meta};
use crate::raft::{Group, GroupStatus, LocalGroup, RaftMember, StateMachine};
use crate::rpc::Peers;
use crate::shard::ShardHandle;
use crate::types::NodeId;

/// Time within which a leader that has led for as long must have confirmed its majority.
const MAJORITY_CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(2);

/// The metadata group and the region's shards on this node, with this node's knowledge of the
/// others.
pub struct LocalGroups {
    /// The node's identity.
    pub identity: Identity,
    /// The node's clock.
    pub clock: Clock,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Failure detector of the other nodes.
    pub failure_detector: Arc<FailureDetector>,
    /// The metadata group.
    pub meta: Arc<Group<Meta>>,
    /// In-memory view of the metadata.
    pub catalog: Arc<Catalog>,
    /// Handles of the region's shards, by number.
    pub shards: Vec<Arc<ShardHandle>>,
    /// Number of times that this node's replicas differed from those of other nodes.
    pub replica_alarms: Arc<AtomicU64>,
}

impl LocalGroups {
    /// All groups, by number, as targets of other nodes' calls.
    pub fn members(&self) -> Vec<Arc<dyn RaftMember>> {
        let meta: Arc<dyn RaftMember> = self.meta.clone();
        let shards = self.shards.iter().map(|shard| {
            let group: Arc<dyn RaftMember> = shard.group().clone();
            group
        });
        std::iter::once(meta).chain(shards).collect()
    }

    /// All groups, by number.
    pub(crate) fn all(&self) -> Vec<Arc<dyn LocalGroup>> {
        let meta: Arc<dyn LocalGroup> = self.meta.clone();
        let shards = self.shards.iter().map(|shard| {
            let group: Arc<dyn LocalGroup> = shard.group().clone();
            group
        });
        std::iter::once(meta).chain(shards).collect()
    }

    /// Shards of which the placement assigns a replica to this node.
    pub(crate) fn hosted_shards(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.shards.iter().filter(|shard| shard.is_hosted())
    }

    /// Statuses of the metadata and of the hosted shards.
    pub(crate) fn statuses(&self) -> Vec<GroupStatus> {
        let shards = self.hosted_shards().map(|shard| shard.status());
        std::iter::once(self.meta.status()).chain(shards).collect()
    }

    /// Returns whether a node is alive; this one always is.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        node == self.identity.node_id || self.failure_detector.is_alive(node)
    }

    /// Reason why a node that isn't alive can't be reached: why connecting to it failed, or that it
    /// doesn't answer.
    pub(crate) fn unreachable_reason(&self, node: NodeId) -> String {
        let failure = self.peers.connection_failure(node);
        failure.unwrap_or_else(|| "it doesn't answer in time".to_owned())
    }

    /// Returns whether a group has a leader now, with a majority: this node, or one that it has
    /// contact with.
    pub(crate) fn has_leader<M: StateMachine>(&self, group: &Group<M>) -> bool {
        let leader = *group.leader().borrow();
        let others = leader.filter(|leader| *leader != self.identity.node_id);
        let is_confirmed = others.is_none_or(|leader| {
            group.leader_age() < MAJORITY_CONFIRMATION_TIMEOUT
                || self.failure_detector.has_led_within(
                    leader,
                    group.id(),
                    MAJORITY_CONFIRMATION_TIMEOUT,
                )
        });
        group.has_leader() && is_confirmed
    }

    /// Name of a node for people: its host and port, and its region.
    pub(crate) fn node_name(&self, node: NodeId) -> String {
        let topology = self.catalog.topology();
        match topology.node(node) {
            Some(known) => {
                let region = topology.known_region_name(known.region);
                format!("{} ({})", known.rpc, region.unwrap_or("?"))
            }
            None => self.peers.name_of(node),
        }
    }
}
