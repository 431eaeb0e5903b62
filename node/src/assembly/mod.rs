//! Puts a node together from its parts, runs it, and takes it apart in order.
//!
//! | file | what it does |
//! | --- | --- |
//! | `groups` | opens the storage and starts the metadata and all shards |
//! | `run` | serves until told to stop, and stops in order |
//! | `threads` | which threads there are, and for what |
//! | `ports` | binds the ports |
//! | `node_port` | whether other nodes and routers are listened for |
//! | `place` | where the node is reached, and with which certificates |
//! | `answering` | what other nodes are answered |
//! | `wiring` | how the parts reach each other |
//! | `upkeep` | clock, flushes and purges while it runs |
//! | `log_budget` | what the log may take for members that lag |
//! | `observe` | what the operator's port tells |
//! | `snapshots` | what it tells of snapshots and of the log kept for members |
//! | `regions` | what it tells of other regions |
//! | `serving` | what it tells of what nobody serves |
//! | `operate` | what the operator's port does |
//! | `places` | what routers are told |

mod answering;
mod groups;
mod log_budget;
mod node_port;
mod observe;
mod operate;
mod place;
mod places;
mod ports;
mod regions;
mod run;
mod serving;
mod snapshots;
mod threads;
mod upkeep;
mod wiring;

pub use crate::store::create_private_files;
pub use cloudkv_common::files::FilesError;
pub use groups::{Groups, StartError};
pub use run::{RunError, run};
