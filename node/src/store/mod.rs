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
pub(crate) mod keys;
mod log;
mod permissions;
mod range_removal;
mod rebuild;
mod state;
mod synced_mark;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use blocking::blocking;
pub(crate) use damage::GroupDamage;
pub(crate) use disk_space::{DiskSpace, DiskState, WriteAdmission, WriteGate};
pub(crate) use engine::{Engine, EngineSettings, OpenError};
pub(crate) use error::{Cause, StoreError};
#[cfg(test)]
pub(crate) use log::LossExtent;
pub(crate) use log::{LogDataLoss, SegmentLog};
pub(crate) use permissions::restrict_umask;
pub(crate) use state::{CachedRead, DbSnapshot, RowBatch, Scan, StateDb};
