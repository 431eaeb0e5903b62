//! Budget of the bytes that may wait in queues, without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may wait in one queue, or in several that share them. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    available: Arc<AtomicUsize>,
}

/// Bytes acquired from a budget, released on drop.
#[derive(Debug)]
pub struct BytePermit {
    budget: ByteBudget,
    bytes: usize,
}

impl ByteBudget {
    /// Creates a budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self {
            available: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    /// Acquires bytes; `None` if too few are left.
    pub fn try_acquire(&self, bytes: usize) -> Option<BytePermit> {
        let less = |available: usize| available.checked_sub(bytes);
        self.available
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok()?;
        let budget = self.clone();
        Some(BytePermit { budget, bytes })
    }
}

impl BytePermit {
    /// Returns the number of acquired bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        self.budget
            .available
            .fetch_add(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_refuses_bytes_beyond_its_bound_and_takes_released_ones_back() {
        let budget = ByteBudget::new(100);
        let permit = budget.try_acquire(60).unwrap();
        assert!(budget.try_acquire(60).is_none());
        drop(permit);
        assert!(budget.try_acquire(100).is_some());
    }
}
