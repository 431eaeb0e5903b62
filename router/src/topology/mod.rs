//! Topology of the cluster, as reported by the nodes.
//!
//! | file | contents |
//! | --- | --- |
//! | `view` | an immutable topology, by which requests are routed |
//! | `reports` | combines the reports of nodes into a view; pure |
//! | `region_choice` | chooses the region for the global name; pure |
//! | `follower` | receives the reports of nodes, and publishes views |
//! | `event_log` | logs changes of the topology |
//! | `health_check` | checks periodically whether each node serves |

mod event_log;
mod follower;
mod health_check;
mod region_choice;
mod reports;
mod view;

pub(crate) use follower::{Follower, FollowerSettings};
pub(crate) use view::{RegionView, TopologyView, TriedNodes};
