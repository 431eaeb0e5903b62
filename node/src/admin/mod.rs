//! The admin port of a node, and the commands that call it.
//!
//! The port is separate from the public one, so that health checks, metrics and operations can be
//! kept off the users' network, and work while the public port is overloaded.

mod backup_command;
mod backups;
mod backups_command;
mod client;
mod commands;
mod context;
mod counts;
mod decommission;
mod errors;
mod node_change;
mod nodes;
#[cfg(test)]
mod nodes_tests;
mod operations;
mod operator;
mod output;
mod plans;
mod recover_command;
mod recovery;
mod recovery_report;
#[cfg(test)]
mod recovery_tests;
mod regions;
mod render;
mod requests;
mod routes;
mod shard_ranges;
mod starting;
mod status;
mod verify;

#[cfg(test)]
mod tests;

pub use client::AdminCallError;
pub use commands::execute;
pub use context::AdminContext;
pub use errors::{NodeError, RecoveryError, RegionError};
pub use node_change::{DecommissionReport, NamedNode, NodeChange};
pub use operations::Operations;
pub(crate) use operator::{Operator, RejoinParticipant, RestartRequest};
pub use recovery_report::{RecoveryGroup, RecoveryMember, RecoveryReport, RecoveryScope};
pub use routes::router;
pub use starting::{AdminRouter, StartProgress, StartingNode};
