//! A region of several nodes as processes, with a network between them that can fail.
//!
//! Every node has a seat, its position in the region, with a loopback address of its own
//! (127.x.y.z). So its ports are the same after a restart, and regions of parallel tests don't
//! collide. Nodes reach each other only through proxies of the [`Network`], one for each ordered
//! pair:
//!
//! ```text
//!            ┌── proxy 1→2 ──┐
//!   node 1 ──┤               ├──► node 2      requests 1→2, replies 2→1
//!          ◄─┤               ├──
//!            └── proxy 2→1 ──┘                requests 2→1, replies 1→2
//! ```
//!
//! Tests and their clients call the nodes' public and admin ports directly.

mod bottleneck;
mod bucket_contents;
mod certificates;
mod lifecycle;
mod link_control;
mod link_shape;
mod log_check;
mod multi_region;
mod network;
mod node_process;
mod observe;
mod proxy;
mod pump;
mod recovery;
mod seats;
mod sharding;
mod status;

#[cfg(test)]
mod network_tests;

pub use bucket_contents::{BucketContents, BucketValues, LiveKey};
pub use certificates::Certificates;
pub use lifecycle::{Region, RegionOptions};
pub use link_shape::{Direction, FlowShape, LinkShape, LinkStats};
pub use multi_region::MultiRegionCluster;
pub use network::Network;
pub use node_process::{NodeFlags, NodeProcess, StartMode};
pub use recovery::RecoveryScope;
pub use seats::Seat;
pub use sharding::{key_in_shard, shard_of};
pub use status::{GroupStatus, NodeId, NodeStatus, PeerStatus, SnapshotTransferStatus};
