//! What waits for the disk, kept off the runtime's other tasks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rocksdb::DB;
use tokio::runtime::{Handle, RuntimeFlavor};

/// How often RocksDB is asked whether it stalls: each answer takes its lock.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Runs what waits for the disk without holding up the runtime's other tasks.
pub fn blocking<T>(wait: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        Ok(_) | Err(_) => wait(),
    }
}

/// Whether writes are slowed down or stopped, since flushes or compactions lag. It is asked now and
/// then: a write that comes before the answer waits where it is, which costs a few milliseconds.
pub(super) struct StallWatch {
    start: Instant,
    asked_at: AtomicU64,
    stalling: AtomicBool,
}

impl StallWatch {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            asked_at: AtomicU64::new(0),
            stalling: AtomicBool::new(false),
        }
    }

    /// Whether a write to `db` should be expected to wait.
    pub(super) fn is_stalling(&self, db: &DB) -> bool {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let asked_at = self.asked_at.load(Ordering::Relaxed);
        if u128::from(now.saturating_sub(asked_at)) >= ASK_EVERY.as_micros() {
            self.asked_at.store(now, Ordering::Relaxed);
            self.stalling.store(ask(db), Ordering::Relaxed);
        }
        self.stalling.load(Ordering::Relaxed)
    }
}

fn ask(db: &DB) -> bool {
    [
        c"rocksdb.is-write-stopped",
        c"rocksdb.actual-delayed-write-rate",
    ]
    .into_iter()
    .any(|property| !matches!(db.property_int_value(property), Ok(None | Some(0))))
}
