//! Storage of a node, on its disk.
//!
//! - [`SegmentLog`]: the Raft logs of all groups. Only it is fsynced: one sync for all groups of
//!   the node (see `log`).
//! - [`StateDb`]: the applied state of all groups, in RocksDB, which no other module uses. It has
//!   no write-ahead log: after a crash the state is the one last flushed, a prefix of what was
//!   applied, and the rest is applied again from the logs. So a log may only be purged up to what
//!   the state has flushed.
//!
//! Row keys are built in [`keys`]; no other module writes a literal key.

mod blocking;
mod damage;
mod disk_space;
mod durable_dir;
mod engine;
mod error;
pub mod keys;
mod log;
mod permissions;
mod range_removal;
mod rebuild;
mod state;
mod synced_mark;
#[cfg(test)]
pub mod testing;

pub use blocking::blocking;
pub use damage::GroupDamage;
pub use disk_space::{DiskSpace, DiskState, WriteAdmission, WriteGate};
pub use engine::{Engine, EngineSettings, OpenError};
pub use error::{Cause, StoreError};
pub use log::{Completion, LogDataLoss, LossExtent, SegmentLog, SyncStats};
pub use permissions::{InsecurePermissions, restrict_umask};
pub use state::{CachedRead, DbSnapshot, RowBatch, Scan, StateDb};
