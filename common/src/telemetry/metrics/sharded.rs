//! Value with about one copy per thread: counting never waits for another CPU's cache line.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

/// Number of copies of a value. Further threads share them.
const SHARDS: usize = 16;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
}

/// Copies of a `T`, each on its own cache lines.
#[derive(Debug)]
pub(super) struct Sharded<T>([CachePadded<T>; SHARDS]);

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| CachePadded::new(T::default())))
    }
}

impl<T> Sharded<T> {
    /// Returns this thread's copy.
    pub fn own(&self) -> &T {
        // A thread that ends may have lost its index; any copy is correct.
        let shard = SHARD.try_with(Cell::get).unwrap_or_default();
        &self.0[shard % SHARDS]
    }

    /// Returns all copies, to add them up.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &**shard)
    }
}
