//! RocksDB, and the only place that knows it.
//!
//! A node has two databases under its data directory:
//!
//! - [`LogDb`], the Raft logs of all groups. It is what is fsynced: one group commit for all
//!   groups of the node (see `group_commit`).
//! - [`StateDb`], the applied state of all groups. It has no write-ahead log: after a crash the
//!   state is what was last flushed, a prefix of what was applied, and the rest is applied again
//!   from the logs. So a log may only be purged up to what the state has flushed.
//!
//! Row keys are made in [`keys`]; no other module writes a literal key.

mod blocking;
mod engine;
mod error;
mod group_commit;
pub mod keys;
mod log;
mod state;
mod synced_mark;

pub use blocking::blocking;
pub use engine::{Engine, EngineSettings, OpenError};
pub use error::{Cause, StoreError};
pub use group_commit::{Completion, SyncStats};
pub use log::{LogDb, LogMeta};
pub use state::{Batch, Found, Scan, StateDb};
