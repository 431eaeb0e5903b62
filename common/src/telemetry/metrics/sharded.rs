//! Value with about one copy per thread: counting never waits for another CPU's cache line.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

/// Number of copies of a value. Further threads share them.
const SHARD_COUNT: usize = 16;

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD_INDEX: Cell<usize> =
        Cell::new(NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARD_COUNT);
}

/// Copies of a `T`, each on its own cache lines.
#[derive(Debug)]
pub(super) struct Sharded<T>([CachePadded<T>; SHARD_COUNT]);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| CachePadded::new(T::default())))
    }
}

impl<T> Sharded<T> {
    /// Returns this thread's copy.
    pub(super) fn local(&self) -> &T {
        // A thread that ends may have lost its index; any copy is correct.
        let shard = SHARD_INDEX.try_with(Cell::get).unwrap_or_default();
        &self.0[shard % SHARD_COUNT]
    }

    /// Returns all copies, to add them up.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &**shard)
    }
}
