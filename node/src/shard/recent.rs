//! Records that were changed lately, so that the next write to the same key needs no look at the disk's
//! rows: what it replaces says how counts and digest change.
//!
//! Invariant: what is here for a row is what the row holds once the batch that is being made is
//! written. So an answer from here is the one that the rows would give, and replicas that remember
//! different rows stay the same.

use std::collections::HashMap;
use std::mem;

use bytes::Bytes;

/// What a record takes here beside its row's key and its own bytes, about.
const OVERHEAD: usize = 128;
/// Larger records aren't remembered: reading them again costs less, compared with writing them.
const LARGEST: usize = 8 << 10;

/// A row's record as bytes; `None`: there is none.
type Row = Option<Bytes>;

/// The rows that were changed lately, of a bounded size.
#[derive(Debug)]
pub(super) struct Recent {
    /// Changed since the last batch was written.
    changed: HashMap<Vec<u8>, Row>,
    /// Changed before, the newest ...
    young: HashMap<Vec<u8>, Row>,
    young_bytes: usize,
    /// ... and those before them.
    old: HashMap<Vec<u8>, Row>,
    /// What one of both may take.
    most: usize,
}

impl Recent {
    /// Remembers rows of so many bytes in all, and those of the batch that is being made.
    pub fn new(bytes: usize) -> Self {
        Self {
            changed: HashMap::new(),
            young: HashMap::new(),
            young_bytes: 0,
            old: HashMap::new(),
            most: bytes / 2,
        }
    }

    /// What a row holds, if that is remembered.
    pub fn get(&self, row: &[u8]) -> Option<Row> {
        let of_this_batch = self.changed.get(row);
        let known = of_this_batch.or_else(|| self.young.get(row));
        known.or_else(|| self.old.get(row)).cloned()
    }

    /// Notes what the batch that is being made does to a row.
    pub fn change(&mut self, key: Vec<u8>, row: Row) {
        self.changed.insert(key, row);
    }

    /// The batch is written.
    pub fn written(&mut self) {
        for (key, row) in self.changed.drain() {
            let bytes = row.as_ref().map_or(0, Bytes::len);
            if bytes > LARGEST {
                self.young.remove(&key);
                self.old.remove(&key);
                continue;
            }
            let takes = key.len() + bytes + OVERHEAD;
            if self.young_bytes + takes > self.most {
                self.old = mem::take(&mut self.young);
                self.young_bytes = 0;
            }
            // Of one that was there already the bytes count twice: only the bound comes sooner.
            self.young_bytes += takes;
            self.young.insert(key, row);
        }
    }

    /// Forgets all rows: they have changed otherwise.
    pub fn clear(&mut self) {
        *self = Self::new(2 * self.most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is remembered is the newest, whatever was forgotten, and bounded.
        #[test]
        fn it_never_tells_what_was_replaced(
            batches in prop::collection::vec(
                prop::collection::vec((0_u8..20, prop::option::of(0_usize..300)), 0..8),
                0..60,
            )
        ) {
            let mut recent = Recent::new(4000);
            let mut rows: HashMap<Vec<u8>, Row> = HashMap::new();
            for batch in batches {
                for (key, length) in batch {
                    // Some are too large to be remembered.
                    let row = length.map(|length| Bytes::from(vec![key; length * 40]));
                    recent.change(vec![key], row.clone());
                    rows.insert(vec![key], row.clone());
                    prop_assert_eq!(recent.get(&[key]), Some(row));
                }
                recent.written();
                for (key, row) in &rows {
                    let known = recent.get(key);
                    prop_assert!(known.is_none() || known.as_ref() == Some(row));
                }
                for kept in [&recent.young, &recent.old] {
                    let bytes = kept.iter().map(|(key, row)| {
                        key.len() + row.as_ref().map_or(0, Bytes::len) + OVERHEAD
                    });
                    let bytes: usize = bytes.sum();
                    prop_assert!(bytes <= 2000 || kept.len() == 1);
                }
            }
        }
    }

    #[test]
    fn what_was_just_written_is_remembered_until_it_is_cleared() {
        let mut recent = Recent::new(1 << 20);
        recent.change(b"a".to_vec(), Some(Bytes::from_static(b"1")));
        recent.written();
        recent.change(b"b".to_vec(), None);
        recent.written();
        assert_eq!(recent.get(b"a"), Some(Some(Bytes::from_static(b"1"))));
        assert_eq!(recent.get(b"b"), Some(None));
        assert_eq!(recent.get(b"c"), None);
        recent.clear();
        assert_eq!(recent.get(b"a"), None);
        recent.change(b"a".to_vec(), None);
        recent.written();
        assert_eq!(
            recent.get(b"a"),
            Some(None),
            "it forgot how much it may keep"
        );
    }
}
