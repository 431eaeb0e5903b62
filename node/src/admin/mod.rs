//! The operator's side of a node: its own port, and the commands that call it.
//!
//! The port is apart from the public one, so that health checks, metrics and operations can be
//! kept off the network that users are on, and go on when the public port is full.

mod client;
mod commands;
mod decommission;
mod errors;
mod nodes;
#[cfg(test)]
mod nodes_tests;
mod operations;
mod regions;
mod render;
mod routes;
mod starting;
mod status;

#[cfg(test)]
mod tests;

pub use client::CallError;
pub use commands::execute;
pub use nodes::{Departure, NamedNode, NodeChange, NodeError};
pub use operations::Operations;
pub use regions::RegionError;
pub use routes::{AdminState, Node, router};
pub use starting::{Front, Progress, Starting};
