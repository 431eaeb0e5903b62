//! Runs operations that wait for the disk without holding up the runtime's other tasks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rocksdb::DB;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Interval at which RocksDB's stall state is queried: each query takes its lock.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Runs an operation that waits for the disk without holding up the runtime's other tasks.
pub(crate) fn blocking<T>(operation: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(operation),
        Ok(_) | Err(_) => operation(),
    }
}

/// Cached state of RocksDB's write stalls: writes are slowed down or stopped while flushes or
/// compactions lag. A write that begins before a new stall is noticed blocks its thread, for a few
/// milliseconds.
pub(super) struct StallWatch {
    start: Instant,
    checked_at: AtomicU64,
    stalling: AtomicBool,
}

impl StallWatch {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            checked_at: AtomicU64::new(0),
            stalling: AtomicBool::new(false),
        }
    }

    /// Returns whether a write to `db` is expected to stall.
    pub(super) fn is_stalling(&self, db: &DB) -> bool {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let checked_at = self.checked_at.load(Ordering::Relaxed);
        if u128::from(now.saturating_sub(checked_at)) >= STALL_CHECK_INTERVAL.as_micros() {
            self.checked_at.store(now, Ordering::Relaxed);
            self.stalling.store(query_stalled(db), Ordering::Relaxed);
        }
        self.stalling.load(Ordering::Relaxed)
    }
}

fn query_stalled(db: &DB) -> bool {
    [
        c"rocksdb.is-write-stopped",
        c"rocksdb.actual-delayed-write-rate",
    ]
    .into_iter()
    .any(|property| !matches!(db.property_int_value(property), Ok(None | Some(0))))
}
