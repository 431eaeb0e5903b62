//! Bounds what the log takes for members that lag.
//!
//! Leaders keep what a member lacks, so that it needs no snapshot, or no other one after the one that
//! it receives (`raft/retention`). The log of a node is one, so the bound is the node's. When all of
//! it is taken, or the disk is nearly full, the group that keeps most gives that up, and its members
//! that lag need a snapshot from the beginning: that is told, since it may go on for ever.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::groups::Groups;
use crate::store::DiskState;

/// An entry counts for so many bytes at least: memory holds where each lies.
const MIN_ENTRY_BYTES: u64 = 1 << 10;
/// Part of the disk that may be taken at most.
const DISK_SHARE: u64 = 5;
/// Time for the space of one group to come back before another one gives up.
const RELEASE_INTERVAL: Duration = Duration::from_secs(5);

/// What the log may take for members that lag.
pub struct LogBudget {
    bytes: u64,
    data_dir: PathBuf,
    used: AtomicU64,
    released: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl LogBudget {
    /// At most so many bytes, and a fifth of the disk with the data directory.
    pub fn new(bytes: u64, data_dir: PathBuf) -> Self {
        Self {
            bytes,
            data_dir,
            used: AtomicU64::new(0),
            released: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// Bytes that the log may take.
    pub fn limit(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.data_dir);
        let share = disk.map_or(u64::MAX, |disk| {
            disk.f_blocks.saturating_mul(disk.f_frsize) / DISK_SHARE
        });
        self.bytes.min(share)
    }

    /// Bytes that it takes, when that was last looked at.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Times that a group gave up what it kept for members that lag.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// Has the group that keeps most give that up, if all of the budget is taken or the disk is
    /// below its low-water mark.
    pub(super) fn keep(&self, groups: &Groups) {
        let log = &groups.engine.log;
        let used = used_bytes(log.used_bytes(), log.entry_count());
        self.used.store(used, Ordering::Relaxed);
        let is_disk_low = groups.space.state() != DiskState::Ample;
        if (used <= self.limit() && !is_disk_low) || !self.is_due() {
            return;
        }
        let shards = groups.shards.iter();
        let most = shards.max_by_key(|shard| shard.group().retention().entries());
        let most = most.map(|shard| shard.group());
        let kept = most.map_or(0, |group| group.retention().entries());
        let meta = groups.meta.retention().entries();
        let (group, entries) = match most {
            Some(group) if kept > 0 && kept >= meta => {
                group.release_log();
                (group.id(), kept)
            }
            _ if meta > 0 => {
                groups.meta.release_log();
                (groups.meta.id(), meta)
            }
            // What the log takes is not for members that lag.
            _ => return,
        };
        *self.last.lock() = Some(Instant::now());
        self.released.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            %group, entries, used, limit = self.limit(), is_disk_low,
            "log kept for members that lag was released: they need a snapshot; raise \
             log_retention_mib if they do not catch up"
        );
    }

    fn is_due(&self) -> bool {
        let last = *self.last.lock();
        last.is_none_or(|last| last.elapsed() > RELEASE_INTERVAL)
    }
}

fn used_bytes(bytes: u64, entries: u64) -> u64 {
    bytes.max(entries.saturating_mul(MIN_ENTRY_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_entries_count_for_the_memory_that_they_take() {
        assert_eq!(used_bytes(5000, 2), 5000);
        assert_eq!(used_bytes(5000, 10), 10 << 10);
    }
}
