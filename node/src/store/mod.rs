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
mod maintenance;
mod permissions;
mod range_removal;
mod rebuild;
mod scan;
mod state;
mod state_dirs;
mod status;
mod synced_mark;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use blocking::blocking;
pub(crate) use damage::GroupDamage;
pub(crate) use disk_space::{DiskShortage, DiskSpace, DiskState, WriteAdmission, WriteGate};
pub(crate) use engine::{Engine, EngineSettings, OpenError};
#[cfg(test)]
pub(crate) use error::LossExtent;
pub(crate) use error::{Cause, LogDataLoss, StoreError};
pub(crate) use log::SegmentLog;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use log::fuzzing;
pub(crate) use maintenance::{StateFlusher, clean_log_segments, measure_disk_space};
pub(crate) use permissions::restrict_umask;
pub(crate) use scan::{Scan, ScanOrder, ScanStep};
pub(crate) use state::{CachedRead, DbSnapshot, RowBatch, StateDb};
pub(crate) use status::{storage_status, write_storage_metrics};
