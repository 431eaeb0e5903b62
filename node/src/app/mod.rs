//! The node's composition root: builds its components, runs them and stops them in order.
//!
//! | file | contents |
//! | --- | --- |
//! | `run` | runs a node from the binding of its ports to its end |
//! | `errors` | reasons for which a node can't start, or ends |
//! | `threads` | the threads and their purposes |
//! | `ports` | binds the ports |
//! | `build` | builds the node |
//! | `endpoint` | the node's advertised addresses and its certificates |
//! | `membership` | opens the data directory, and joins the node to its cluster |
//! | `damage_advice` | advice for a log or a state that can't be read |
//! | `recovery` | carries out a recovery by force at the start |
//! | `region_rejoin` | prepares a node whose region joins the others anew |
//! | `region_import` | imports what such a node alone had |
//! | `recovered_files` | the files of that |
//! | `export_directory`, `export_files` | exports what a stopped node has |
//! | `restore`, `restore_error` | restores a backup into a new data directory |
//! | `restored_metadata`, `restored_shards` | its metadata and its shards |
//! | `components` | the components below the API |
//! | `start` | starts them: opens the storage, starts the metadata and all shards |
//! | `group_settings` | settings of the groups, and of the connections to other nodes |
//! | `wiring` | connects the components to each other |
//! | `node` | the node: its components, and what serving needs |
//! | `public_api` | builds the public API from the configuration |
//! | `start_report` | progress of the start, for all who call the node meanwhile |
//! | `starting_port` | answers users during the start |
//! | `starting_rpc_port` | refuses nodes that call a member at whose address this one waits |
//! | `admin_port` | serves the admin port, during the start and afterwards |
//! | `status` | joins the modules' parts of status and metrics |
//! | `rpc_port` | decides whether the node listens for other nodes and routers |
//! | `serve` | serves users until a stop is requested |
//! | `serving` | waits until the node can serve them, bootstraps a new cluster |
//! | `tasks`, `cluster_tasks` | what runs beside serving |
//! | `start_log` | log events of a start |
//! | `stop_signals` | signals that stop the parts of a node |
//! | `drain` | stops the node part by part |
//! | `stop` | ends its groups: leadership, failures, the end itself |

mod admin_port;
mod build;
mod cluster_tasks;
mod components;
mod damage_advice;
mod drain;
mod endpoint;
mod errors;
mod export_directory;
mod export_files;
mod group_settings;
mod membership;
mod node;
mod ports;
mod public_api;
mod recovered_files;
mod recovery;
mod region_import;
mod region_rejoin;
mod restore;
mod restore_error;
mod restored_metadata;
mod restored_shards;
mod rpc_port;
mod run;
mod serve;
mod serving;
mod start;
mod start_log;
mod start_report;
mod starting_port;
mod starting_rpc_port;
mod status;
mod stop;
mod stop_signals;
mod tasks;
mod threads;
mod wiring;

pub use cloudkv_common::fd_limit::FdLimitError;
pub use components::Components;
pub use errors::{RunError, StartError};
pub use export_directory::{ExportDirectoryError, export_directory};
pub use restore::restore;
pub use restore_error::RestoreError;
pub use run::run;

/// Sets the umask so that all files that this process creates are accessible only to its user. Call
/// it before any thread creates files.
pub fn restrict_umask() {
    crate::store::restrict_umask();
}
