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
mod folder;
pub mod keys;
mod log;
mod private;
mod rebuild;
mod removal;
mod space;
mod state;
mod synced_mark;
#[cfg(test)]
pub mod testing;

pub use blocking::blocking;
pub use damage::GroupDamage;
pub use engine::{Engine, EngineSettings, OpenError};
pub use error::{Cause, StoreError};
pub use log::{Completion, Extent, Lost, SegmentLog, SyncStats};
pub use private::{OpenToOthers, create_private_files};
pub use space::{DiskSpace, DiskState, Gate, Intake};
pub use state::{Batch, Found, Frozen, Scan, StateDb};
