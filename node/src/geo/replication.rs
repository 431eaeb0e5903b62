//! What the parts of the replication between regions share: dependencies, and access to shards.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio::sync::Semaphore;

use super::retention_budget::RetentionBudget;
use super::status::ReplicationStatus;
use crate::background::BackgroundScheduler;
use crate::clock::Clock;
use crate::cluster::{FailureDetector, MetadataProposer};
use crate::meta::Catalog;
use crate::raft::NodeId;
use crate::rpc::Peers;
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;

/// Dependencies of the replication between regions.
pub(crate) struct GeoReplication {
    /// This region.
    pub local: pb::Peer,
    /// All shards of this node.
    pub shards: Vec<Arc<ShardHandle>>,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Failure detector for the other nodes.
    pub failure_detector: Arc<FailureDetector>,
    /// Clock of this node.
    pub clock: Clock,
    /// Progress and lag of each other region.
    pub status: Arc<ReplicationStatus>,
    /// Sends commands to the metadata's leader on any node.
    pub propose: MetadataProposer,
    /// Limit of the changes retained for other regions.
    pub retention_budget: Arc<RetentionBudget>,
    /// Scheduler of work that yields to users' requests.
    pub background: BackgroundScheduler,
    /// Permit to scan a shard for a digest: one scan at a time.
    pub digest_permit: Arc<Semaphore>,
}

impl GeoReplication {
    /// Finds the leader of a shard in another region, as far as this node knows.
    pub(super) fn leader_in(&self, shard: u16, region: u32) -> Option<NodeId> {
        let topology = self.catalog.topology();
        let is_in_region = |node| topology.is_in_region(node, region);
        self.failure_detector
            .leader_of(GroupId::shard(shard), is_in_region)
    }

    /// Finds the other node of this region that leads a shard, as far as this node knows.
    pub(super) fn leader_here(&self, shard: u16) -> Option<NodeId> {
        let same_region = self.peers.same_region();
        self.failure_detector
            .leader_of(GroupId::shard(shard), |node| same_region.contains(&node))
    }

    /// Returns a shard of this node by its number.
    pub(super) fn shard(&self, number: u32) -> Option<&Arc<ShardHandle>> {
        self.shards.get(usize::try_from(number).ok()?)
    }
}
