//! The node's composition root: builds its components, runs them and stops them in order.
//!
//! | file | contents |
//! | --- | --- |
//! | `membership` | opens the data directory, and joins the node to its cluster |
//! | `groups` | opens the storage and starts the metadata and all shards |
//! | `run` | serves until a stop is requested, then stops in order |
//! | `threads` | the threads and their purposes |
//! | `ports` | binds the ports |
//! | `rpc_port` | decides whether the node listens for other nodes and routers |
//! | `endpoint` | the node's advertised addresses and its certificates |
//! | `dispatch` | dispatches the calls of other nodes |
//! | `wiring` | connects the components to each other |
//! | `damaged_log` | advice for a log that can't be read |
//! | `start_log` | log events of a start |
//! | `event_log` | log events of changes around the node |
//! | `node_list_writer` | saves the cluster's nodes, for when the log can't be read |
//! | `maintenance` | clock, flushes and purges while it runs |
//! | `log_budget` | bounds the log that is kept for members that lag |
//! | `readiness` | whether this node can answer for all shards, and why not |
//! | `status` | status and metrics of the admin port |
//! | `snapshots` | its part about snapshots and the retained log |
//! | `region_status` | its part about other regions |
//! | `availability` | its part about groups that nobody serves |
//! | `operator` | operations of the admin port |
//! | `topology_publisher` | the topology that routers get |

mod availability;
mod damaged_log;
mod dispatch;
mod endpoint;
mod event_log;
mod groups;
mod log_budget;
mod maintenance;
mod membership;
mod node_list_writer;
mod operator;
mod ports;
mod readiness;
mod region_status;
mod rpc_port;
mod run;
mod snapshots;
mod start_log;
mod status;
mod threads;
mod topology_publisher;
mod wiring;

pub use cloudkv_common::fd_limit::FdLimitError;
pub use groups::{Groups, StartError};
pub use run::{RunError, run};

/// Sets the umask so that all files that this process creates are accessible only to its user. Call
/// it before any thread creates files.
pub fn restrict_umask() {
    crate::store::restrict_umask();
}
