//! What a disk does wrong on command.

use std::time::Duration;

/// A part of a node's data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Area {
    /// Nothing of it.
    #[default]
    Nowhere,
    /// `log/`: the Raft logs.
    Log,
    /// `state/`: RocksDB.
    State,
    /// All of it.
    Everywhere,
}

impl Area {
    /// Whether a folder of the data directory belongs to it.
    pub(super) fn covers(self, folder: &str) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Log => folder == "log",
            Self::State => folder == "state",
            Self::Everywhere => true,
        }
    }
}

/// What goes wrong, and where.
#[derive(Clone, Debug, Default)]
pub struct Trouble {
    /// Reads fail with `EIO`. What the kernel has in its memory is still read.
    pub reads_fail: Area,
    /// Writes fail with `EIO`.
    pub writes_fail: Area,
    /// Syncs fail with `EIO`, and make nothing durable: what a file's sync drops, no later one writes.
    pub syncs_fail: Area,
    /// Writes fail with `ENOSPC`.
    pub is_full: Area,
    /// Syncs take long.
    pub slow: Area,
    /// How long they take.
    pub sync_delay: Duration,
    /// How many calls fail, after which all go well; `None`: all of them do.
    pub failures: Option<u64>,
    /// Decides what failed syncs drop.
    pub seed: u64,
}
