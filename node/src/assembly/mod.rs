//! Puts a node together from its parts, runs it, and takes it apart in order.
//!
//! | file | what it does |
//! | --- | --- |
//! | `entry` | opens the data directory, and gets the node into its cluster |
//! | `groups` | opens the storage and starts the metadata and all shards |
//! | `run` | serves until told to stop, and stops in order |
//! | `threads` | which threads there are, and for what |
//! | `ports` | binds the ports |
//! | `node_port` | whether other nodes and routers are listened for |
//! | `place` | where the node is reached, and with which certificates |
//! | `answering` | what other nodes are answered |
//! | `wiring` | how the parts reach each other |
//! | `damaged_log` | what is to be done about a log that can't be read |
//! | `start_log` | what the log tells of a start |
//! | `journal` | what the log tells of what changes around the node |
//! | `upkeep` | clock, flushes and purges while it runs |
//! | `log_budget` | what the log may take for members that lag |
//! | `readiness` | whether this node can answer for all shards, and why not |
//! | `observe` | what the operator's port tells |
//! | `snapshots` | what it tells of snapshots and of the log kept for members |
//! | `regions` | what it tells of other regions |
//! | `serving` | what it tells of what nobody serves |
//! | `operate` | what the operator's port does |
//! | `places` | what routers are told |

mod answering;
mod damaged_log;
mod entry;
mod groups;
mod journal;
mod log_budget;
mod node_port;
mod observe;
mod operate;
mod place;
mod places;
mod ports;
mod readiness;
mod regions;
mod run;
mod serving;
mod snapshots;
mod start_log;
mod threads;
mod upkeep;
mod wiring;

pub use crate::store::create_private_files;
pub use cloudkv_common::files::FilesError;
pub use groups::{Groups, StartError};
pub use run::{RunError, run};
