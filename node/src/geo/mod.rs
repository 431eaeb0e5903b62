//! Asynchronous replication between regions.
//!
//! The leader of a shard in one region sends the region's own changes to the leader of the same
//! shard in each other region, from the change log that is a part of the shard's state
//! (`shard::retained`). The receiver's cursor is a part of its own state (`shard::merge`). So
//! leaders may change and nodes may fail at any moment on both sides: the next leader continues
//! from what is committed.
//!
//! | file | task |
//! | --- | --- |
//! | `controller` | controls a shard's replication while this node leads it |
//! | `sender` | sends a shard's changes to one other region |
//! | `backlog` | decides whether sending has low priority while the region is behind |
//! | `receiver` | answers the senders of other regions |
//! | `seeding` | copies the other regions' data before a new region serves |
//! | `region_removal` | reconciles the survivors' data before a region is removed |
//! | `verify` | compares the regions' data |
//! | `retention_budget` | bounds the changes retained for other regions |
//! | `status` | progress and lag of each other region |

mod backlog;
mod controller;
mod receiver;
mod region_removal;
mod retention_budget;
mod seeding;
mod sender;
mod status;
mod verify;

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background::BackgroundScheduler;
use crate::clock::Clock;
use crate::cluster::{FailureDetector, MetadataProposer};
use crate::meta::Catalog;
use crate::raft::NodeId;
use crate::rpc::Peers;
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;

pub(crate) use retention_budget::{BudgetStage, RetentionBudget};
pub(crate) use status::{ReplicationStatus, ShardReplication};
#[cfg(test)]
pub(crate) use verify::RangeDifference;
pub(crate) use verify::{ComparisonVerdict, RegionComparison, VerifyError};

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
    /// Controls the replication of all shards until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        for (number, shard) in (0..).zip(&self.shards) {
            let controller = controller::run(self.clone(), number, shard.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(controller));
        }
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(retention_budget::run(self.clone())),
        );
        tasks.close();
        tasks.wait().await;
    }

    /// Finds the leader of a shard in another region, as far as this node knows.
    fn leader_in(&self, shard: u16, region: u32) -> Option<NodeId> {
        let topology = self.catalog.topology();
        let is_in_region = |node| {
            topology
                .node(node)
                .is_some_and(|node| node.region == region)
        };
        self.failure_detector
            .leader_of(GroupId::shard(shard), is_in_region)
    }

    fn shard(&self, number: u32) -> Option<&Arc<ShardHandle>> {
        self.shards.get(usize::try_from(number).ok()?)
    }
}
