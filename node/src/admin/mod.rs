//! The admin port of a node, and the commands that call it.
//!
//! The port is separate from the public one, so that health checks, metrics and operations can be
//! kept off the users' network, and work while the public port is overloaded.

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

pub use client::AdminCallError;
pub use commands::execute;
pub use nodes::{DecommissionReport, NamedNode, NodeChange, NodeError};
pub use operations::Operations;
pub use regions::RegionError;
pub use routes::{AdminContext, AdminState, router};
pub use starting::{AdminRouter, StartProgress, StartingNode};
