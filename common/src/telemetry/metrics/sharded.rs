//! One copy of a value per thread or so: counting never waits for another processor's cache line.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

/// Copies of each value. Threads beyond it share.
const SHARDS: usize = 16;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
}

/// Copies of a `T`, each on cache lines of its own.
#[derive(Debug)]
pub(super) struct Sharded<T>([CachePadded<T>; SHARDS]);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| CachePadded::new(T::default())))
    }
}

impl<T> Sharded<T> {
    /// This thread's copy.
    pub fn own(&self) -> &T {
        // A thread that is ending has no shard any more; any will do.
        let shard = SHARD.try_with(Cell::get).unwrap_or_default();
        &self.0[shard % SHARDS]
    }

    /// All copies, to add them up.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &**shard)
    }
}
