//! Faults of a disk on command.

use std::time::Duration;

/// A part of a node's data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Area {
    /// No part.
    #[default]
    Nowhere,
    /// `log/`: the Raft logs.
    Log,
    /// `state/`: RocksDB.
    State,
    /// All parts.
    Everywhere,
}

impl Area {
    /// Returns whether a folder of the data directory belongs to the area.
    pub(super) fn contains(self, folder: &str) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Log => folder == "log",
            Self::State => folder == "state",
            Self::Everywhere => true,
        }
    }
}

/// Faults of a disk, and the areas that they affect.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    /// Reads fail with `EIO`. Pages in the kernel's memory are still readable.
    pub reads_fail: Area,
    /// Writes fail with `EIO`.
    pub writes_fail: Area,
    /// Syncs fail with `EIO`, and make nothing durable: pages that a file's sync drops, no later
    /// one writes.
    pub syncs_fail: Area,
    /// Writes fail with `ENOSPC`.
    pub is_full: Area,
    /// Syncs are slow.
    pub slow_syncs: Area,
    /// Duration of a slow sync.
    pub sync_delay: Duration,
    /// Number of calls that fail, after which all succeed; `None`: all of them fail.
    pub failed_calls: Option<u64>,
    /// Decides which pages failed syncs drop.
    pub seed: u64,
}
