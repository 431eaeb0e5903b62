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
mod certificates;
mod cluster;
mod contents;
mod flow;
mod judge;
mod member;
mod network;
mod observe;
mod place;
mod proxy;
mod seats;
mod shape;
mod status;
mod world;

#[cfg(test)]
mod network_tests;

pub use certificates::Certificates;
pub use cluster::{Region, RegionOptions};
pub use contents::{Contents, Held, Holdings};
pub use member::{Member, MemberFlags, Start};
pub use network::Network;
pub use place::{key_in_shard, shard_of};
pub use seats::Seat;
pub use shape::{Direction, Flow, LinkShape, LinkStats};
pub use status::{Group, NodeId, Peer, Status, Transfer};
pub use world::World;
