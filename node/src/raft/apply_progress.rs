//! Progress of applying a group's entries, which readers on any thread watch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Progress of applying a group's entries, for readers on any thread.
#[derive(Debug, Default)]
pub struct ApplyProgress {
    term: AtomicU64,
    index: AtomicU64,
    /// Set while nothing is applied until the state is replaced: see `repair`.
    stalled: AtomicBool,
    /// Number of tasks that wait for an index: waking them costs something, and there is nearly
    /// always none.
    waiters: AtomicU64,
    advanced: Notify,
}

impl ApplyProgress {
    /// Term of the last applied entry.
    pub fn applied_term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// Returns whether nothing is applied: what was acknowledged may not be in the state.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Release);
    }

    pub(super) fn publish(&self, term: u64, index: u64) {
        self.index.store(index, Ordering::SeqCst);
        self.term.store(term, Ordering::Release);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.advanced.notify_waiters();
        }
    }

    /// Waits until the entry at `index` is applied.
    pub(super) async fn wait_for_index(&self, index: u64) {
        if self.applied_index() >= index {
            return;
        }
        let _waits = WaiterGuard::new(&self.waiters);
        loop {
            let advanced = self.advanced.notified();
            if self.index.load(Ordering::SeqCst) >= index {
                return;
            }
            advanced.await;
        }
    }
}

/// Counts a waiting task until it is dropped.
struct WaiterGuard<'a>(&'a AtomicU64);

impl<'a> WaiterGuard<'a> {
    fn new(waiting: &'a AtomicU64) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
