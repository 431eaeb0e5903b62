//! Measures the changes that this node retains for regions that lack them.
//!
//! The budget counts the content of the change indexes of this node's replicas: keys, values and an
//! overhead (`retained_bytes` in each shard's header, which is replicated state). Tombstones are
//! counted where they were written, by their entries.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shard::ShardHandle;

/// Limit of the bytes that this node retains for other regions, and their current number.
#[derive(Debug)]
pub struct RetentionBudget {
    /// Share of the data directory's disk, in percent.
    disk_percent: u64,
    /// Limit in bytes; 0 sets no limit besides the share of the disk.
    max_bytes: u64,
    data_dir: PathBuf,
    retained: AtomicU64,
    limit: AtomicU64,
}

/// Usage of the retention budget, in stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetStage {
    /// Less than half is used.
    Fine,
    /// Half or more is used: an operator should act.
    Half,
    /// All of it is used.
    Full,
}

impl BudgetStage {
    /// Name in logs and in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Half => "half",
            Self::Full => "full",
        }
    }
}

impl RetentionBudget {
    /// Creates a budget of `percent` of the data directory's disk, and of at most `bytes` if that
    /// isn't 0.
    pub fn new(percent: usize, bytes: u64, data_dir: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            disk_percent: percent as u64,
            max_bytes: bytes,
            data_dir,
            retained: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
        })
    }

    /// Bytes that this node retains for regions that lack them.
    pub fn retained_bytes(&self) -> u64 {
        self.retained.load(Ordering::Relaxed)
    }

    /// Maximum number of bytes to retain.
    pub fn limit_bytes(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Current stage of usage.
    pub fn stage(&self) -> BudgetStage {
        let (retained, limit) = (self.retained_bytes(), self.limit_bytes());
        if retained >= limit {
            BudgetStage::Full
        } else if retained >= limit / 2 {
            BudgetStage::Half
        } else {
            BudgetStage::Fine
        }
    }

    /// Measures the bytes that these shards retain, and the limit.
    pub(super) fn measure(&self, shards: &[Arc<ShardHandle>]) -> BudgetStage {
        let hosted = shards.iter().filter(|shard| shard.is_hosted());
        let retained =
            hosted.map(|shard| shard.view().replication().borrow().header.retained_bytes);
        self.retained.store(retained.sum(), Ordering::Relaxed);
        // A disk that can't be queried leaves the limit as it was.
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            let size = disk.f_blocks.saturating_mul(disk.f_frsize);
            let share = (size / 100).saturating_mul(self.disk_percent);
            let max_bytes = Some(self.max_bytes).filter(|bytes| *bytes > 0);
            let limit = share.min(max_bytes.unwrap_or(u64::MAX)).max(2);
            self.limit.store(limit, Ordering::Relaxed);
        }
        self.stage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_budget_alarms_and_all_of_it_is_full() {
        let budget = RetentionBudget::new(20, 100, PathBuf::from("/"));
        budget.limit.store(100, Ordering::Relaxed);
        for (retained, stage) in [
            (49, BudgetStage::Fine),
            (50, BudgetStage::Half),
            (100, BudgetStage::Full),
        ] {
            budget.retained.store(retained, Ordering::Relaxed);
            assert_eq!(budget.stage(), stage);
        }
    }
}
