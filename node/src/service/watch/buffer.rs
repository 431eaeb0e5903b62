//! Bytes of changes that wait in rings, and their bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of one bucket's changes in rings, which count for all buckets' as well.
#[derive(Debug)]
pub(super) struct BufferedBytes {
    bucket: AtomicUsize,
    total: Arc<AtomicUsize>,
}

/// Bounds on bytes of changes in rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferBounds {
    pub bucket: usize,
    pub total: usize,
}

impl BufferedBytes {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self {
            bucket: AtomicUsize::new(0),
            total,
        }
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bucket.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, bytes: usize) {
        self.bucket.fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes of this bucket.
    pub(super) fn of_bucket(&self) -> usize {
        self.bucket.load(Ordering::Relaxed)
    }
}
