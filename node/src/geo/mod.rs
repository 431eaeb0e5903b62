//! Propagation between regions.
//!
//! The leader of a shard in one region sends the region's own changes to the leader of the same
//! shard in each other region, from the index of changes that is a part of the shard's state
//! (`shard::held`); the receiver's cursor is a part of its state (`shard::merge`). So leaders may
//! change and nodes die at any moment on both sides: whoever leads next goes on from what is
//! committed.
//!
//! | file | what it does |
//! | --- | --- |
//! | `steward` | looks after a shard while this node leads it |
//! | `sender` | sends a shard's changes to one other region |
//! | `backlog` | how much of its time that may take while the region is behind |
//! | `receiver` | what other regions' senders are answered |
//! | `adoption` | takes over what other regions have, before a new region serves |
//! | `leaving` | levels what is here of regions that leave, before they go |
//! | `verify` | compares what regions hold |
//! | `budget` | bounds what is held back for other regions |
//! | `ledger` | how far each other region is, and how long changes take |

mod adoption;
mod backlog;
mod budget;
mod leaving;
mod ledger;
mod receiver;
mod sender;
mod steward;
mod verify;

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::cluster::{Proposer, Vitals};
use crate::meta::Catalog;
use crate::pace::Pace;
use crate::raft::NodeId;
use crate::rpc::Peers;
use crate::shard::ShardHandle;
use crate::store::keys::GroupId;

pub use budget::{Budget, Stage};
pub use ledger::{Ledger, Line};
pub use verify::{Comparison, Difference, Verdict, VerifyError};

/// What propagation works with.
pub struct Geo {
    /// This region.
    pub me: pb::Peer,
    /// All shards of this node.
    pub shards: Vec<Arc<ShardHandle>>,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Their signs of life.
    pub vitals: Arc<Vitals>,
    /// The time.
    pub clock: Clock,
    /// How far each region is.
    pub ledger: Arc<Ledger>,
    /// Takes commands to the metadata's leader, wherever it is.
    pub propose: Proposer,
    /// What may be held back for other regions.
    pub budget: Arc<Budget>,
    /// Turns of what yields to users' requests.
    pub pace: Pace,
    /// Walks over a shard to compare it: one at a time.
    pub comparing: Arc<Semaphore>,
}

impl Geo {
    /// Looks after all shards until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        for (number, shard) in (0..).zip(&self.shards) {
            let steward = steward::run(self.clone(), number, shard.clone());
            tasks.spawn(stop.clone().run_until_cancelled_owned(steward));
        }
        tasks.spawn(
            stop.clone()
                .run_until_cancelled_owned(budget::run(self.clone())),
        );
        tasks.close();
        tasks.wait().await;
    }

    /// Who leads a shard in another region, as far as this node knows.
    fn leader_in(&self, shard: u16, region: u32) -> Option<NodeId> {
        let topology = self.catalog.topology();
        let there = |node| {
            topology
                .node(node)
                .is_some_and(|node| node.region == region)
        };
        self.vitals.leader_of(GroupId::shard(shard), there)
    }

    fn shard(&self, number: u32) -> Option<&Arc<ShardHandle>> {
        self.shards.get(usize::try_from(number).ok()?)
    }
}
