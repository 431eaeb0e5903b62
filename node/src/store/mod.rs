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
mod engine;
mod error;
mod durable_dir;
pub mod keys;
mod log;
mod permissions;
mod rebuild;
mod range_removal;
mod disk_space;
mod state;
mod synced_mark;
#[cfg(test)]
pub mod testing;

pub use blocking::blocking;
pub use damage::GroupDamage;
pub use engine::{Engine, EngineSettings, OpenError};
pub use error::{Cause, StoreError};
pub use log::{Completion, LossExtent, LogDataLoss, SegmentLog, SyncStats};
pub use permissions::{InsecurePermissions, restrict_umask};
pub use disk_space::{DiskSpace, DiskState, WriteGate, WriteAdmission};
pub use state::{RowBatch, CachedRead, DbSnapshot, Scan, StateDb};
