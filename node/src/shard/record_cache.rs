//! Cache of recently changed records, so that the next write to the same key needs no read from
//! disk: the replaced record determines how counts and digest change.
//!
//! Invariant: a cached row is what the row holds once the batch under construction is written. So
//! a cache hit equals a read of the row, and replicas that cache different rows don't diverge.

use std::collections::HashMap;
use std::mem;

use bytes::Bytes;

/// Estimated memory per cached record beside its row key and value, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 128;
/// Maximum size of a cached record, in bytes: reading larger ones again is cheap compared with
/// writing them.
const MAX_RECORD_BYTES: usize = 8 << 10;

/// A row's encoded record; `None` if there is none.
type CachedRow = Option<Bytes>;

/// Cache of recently changed rows, bounded in bytes.
#[derive(Debug)]
pub(super) struct RecordCache {
    /// Changed since the last batch was written.
    changed: HashMap<Vec<u8>, CachedRow>,
    /// Newest generation of rows of written batches.
    young: HashMap<Vec<u8>, CachedRow>,
    young_bytes: usize,
    /// Generation before `young`.
    old: HashMap<Vec<u8>, CachedRow>,
    /// Maximum size of each of the two generations.
    max_generation_bytes: usize,
}

impl RecordCache {
    /// Creates a cache of at most `bytes`, plus the rows of the batch under construction.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            changed: HashMap::new(),
            young: HashMap::new(),
            young_bytes: 0,
            old: HashMap::new(),
            max_generation_bytes: bytes / 2,
        }
    }

    /// Returns a row's content, if cached.
    pub(super) fn get(&self, row: &[u8]) -> Option<CachedRow> {
        let in_batch = self.changed.get(row);
        let known = in_batch.or_else(|| self.young.get(row));
        known.or_else(|| self.old.get(row)).cloned()
    }

    /// Records a row's content after the batch under construction.
    pub(super) fn insert(&mut self, key: Vec<u8>, row: CachedRow) {
        self.changed.insert(key, row);
    }

    /// Moves the rows of the batch, which is written now, to the bounded generations.
    pub(super) fn commit_batch(&mut self) {
        for (key, row) in self.changed.drain() {
            let bytes = row.as_ref().map_or(0, Bytes::len);
            if bytes > MAX_RECORD_BYTES {
                self.young.remove(&key);
                self.old.remove(&key);
                continue;
            }
            let entry_bytes = key.len() + bytes + ENTRY_OVERHEAD_BYTES;
            if self.young_bytes + entry_bytes > self.max_generation_bytes {
                self.old = mem::take(&mut self.young);
                self.young_bytes = 0;
            }
            // A row that was cached already counts twice, which only evicts sooner.
            self.young_bytes += entry_bytes;
            self.young.insert(key, row);
        }
    }

    /// Evicts all rows, after they were changed by other means.
    pub(super) fn clear(&mut self) {
        *self = Self::new(2 * self.max_generation_bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Cached rows are the newest, whatever was evicted, and bounded.
        #[test]
        fn never_returns_a_replaced_row(
            batches in prop::collection::vec(
                prop::collection::vec((0_u8..20, prop::option::of(0_usize..300)), 0..8),
                0..60,
            )
        ) {
            let mut recent = RecordCache::new(4000);
            let mut rows: HashMap<Vec<u8>, CachedRow> = HashMap::new();
            for batch in batches {
                for (key, length) in batch {
                    // Some are too large to be cached.
                    let row = length.map(|length| Bytes::from(vec![key; length * 40]));
                    recent.insert(vec![key], row.clone());
                    rows.insert(vec![key], row.clone());
                    prop_assert_eq!(recent.get(&[key]), Some(row));
                }
                recent.commit_batch();
                for (key, row) in &rows {
                    let known = recent.get(key);
                    prop_assert!(known.is_none() || known.as_ref() == Some(row));
                }
                for kept in [&recent.young, &recent.old] {
                    let bytes = kept.iter().map(|(key, row)| {
                        key.len() + row.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES
                    });
                    let bytes: usize = bytes.sum();
                    prop_assert!(bytes <= 2000 || kept.len() == 1);
                }
            }
        }
    }

    #[test]
    fn a_written_row_is_cached_until_cleared() {
        let mut recent = RecordCache::new(1 << 20);
        recent.insert(b"a".to_vec(), Some(Bytes::from_static(b"1")));
        recent.commit_batch();
        recent.insert(b"b".to_vec(), None);
        recent.commit_batch();
        assert_eq!(recent.get(b"a"), Some(Some(Bytes::from_static(b"1"))));
        assert_eq!(recent.get(b"b"), Some(None));
        assert_eq!(recent.get(b"c"), None);
        recent.clear();
        assert_eq!(recent.get(b"a"), None);
        recent.insert(b"a".to_vec(), None);
        recent.commit_batch();
        assert_eq!(recent.get(b"a"), Some(None), "clearing lost the size bound");
    }
}
