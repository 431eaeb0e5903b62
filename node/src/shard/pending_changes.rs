//! Changes of applied entries that readers don't see yet: their batch isn't written.
//!
//! Invariants:
//! - a change gets its index when its entry is applied as a whole, and only such changes are
//!   published. What a failed batch leaves is cleared with the state that it was applied to;
//! - changes are left out rather than exceed the bound: then all up to the end of their entry are,
//!   and the memory begins behind it.

use super::remembered_change::RememberedChange;

/// Number of changes for which memory is kept from one batch to the next.
const MAX_IDLE_CAPACITY: usize = 1024;

/// Changes of the batch under construction.
#[derive(Debug)]
pub(super) struct PendingChanges {
    changes: Vec<RememberedChange>,
    bytes: usize,
    /// Bound on their memory, in bytes; 0: nothing is recorded.
    max_bytes: usize,
    /// Number of changes that have their index.
    complete: usize,
    /// True if changes of the current entry are left out.
    omits_changes: bool,
    /// Last entry of which changes were left out.
    begins_after: Option<u64>,
    /// Last entry that was applied.
    last_index: Option<u64>,
}

impl PendingChanges {
    /// Creates an empty batch that takes at most `max_bytes` of memory; 0: it records nothing.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            changes: Vec::new(),
            bytes: 0,
            max_bytes,
            complete: 0,
            omits_changes: max_bytes == 0,
            begins_after: None,
            last_index: None,
        }
    }

    /// Returns whether changes of the current entry are recorded.
    pub(super) fn is_recording(&self) -> bool {
        !self.omits_changes
    }

    /// Records a change of the current entry, if changes of it are recorded.
    pub(super) fn push(&mut self, change: RememberedChange) {
        if self.bytes + change.bytes() > self.max_bytes {
            self.omit();
        }
        if self.is_recording() {
            self.bytes += change.bytes();
            self.changes.push(change);
        }
    }

    /// Leaves the changes of the current entry out, and those before them, which nobody can use
    /// without them.
    pub(super) fn omit(&mut self) {
        self.omits_changes = true;
        self.changes.clear();
        self.bytes = 0;
        self.complete = 0;
    }

    /// Ends the current entry, whatever it held.
    pub(super) fn end_entry(&mut self, index: u64) {
        if self.omits_changes {
            self.begins_after = Some(index);
            self.omits_changes = self.max_bytes == 0;
        }
        for change in &mut self.changes[self.complete..] {
            change.set_index(index);
        }
        self.complete = self.changes.len();
        self.last_index = Some(index);
    }

    /// Last entry of which changes were left out, if there is one in the batch.
    pub(super) fn begins_after(&self) -> Option<u64> {
        self.begins_after
    }

    /// Last entry of the batch; `None` if it has none.
    pub(super) fn last_index(&self) -> Option<u64> {
        self.last_index
    }

    /// Takes the changes of the batch's entries, and begins the next batch.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = RememberedChange> {
        self.changes.truncate(self.complete);
        self.bytes = 0;
        self.complete = 0;
        self.omits_changes = self.max_bytes == 0;
        self.begins_after = None;
        self.last_index = None;
        self.changes.drain(..)
    }

    /// Releases the memory of an unusually large batch.
    pub(super) fn shrink(&mut self) {
        self.changes.shrink_to(MAX_IDLE_CAPACITY);
    }

    /// Discards the batch: nothing of it was written.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BucketId, Version};

    fn change(key: &str) -> RememberedChange {
        let bucket = BucketId::parse(b"aAAAAAAAAAAAAA").unwrap();
        RememberedChange::deleted(bucket, key.as_bytes(), Version { time: 1, region: 1 })
    }

    fn drained(pending: &mut PendingChanges) -> Vec<(u64, String)> {
        let changes = pending.drain().map(|change| change.to_key_change());
        changes
            .map(|change| {
                (
                    change.index,
                    String::from_utf8(change.key.to_vec()).unwrap(),
                )
            })
            .collect()
    }

    fn pair(index: u64, key: &str) -> (u64, String) {
        (index, key.to_owned())
    }

    #[test]
    fn changes_get_the_index_of_their_entry_and_those_of_a_failed_one_are_dropped() {
        let mut pending = PendingChanges::new(10_000);
        pending.push(change("a"));
        pending.push(change("b"));
        pending.end_entry(4);
        pending.end_entry(5);
        pending.push(change("c"));
        pending.end_entry(7);
        pending.push(change("failed"));
        assert_eq!(
            (pending.begins_after(), pending.last_index()),
            (None, Some(7))
        );
        assert_eq!(
            drained(&mut pending),
            [pair(4, "a"), pair(4, "b"), pair(7, "c")]
        );
        assert_eq!((pending.begins_after(), pending.last_index()), (None, None));
        pending.push(change("d"));
        pending.end_entry(8);
        assert_eq!(drained(&mut pending), [pair(8, "d")]);
    }

    #[test]
    fn changes_beyond_the_bound_are_left_out_up_to_the_end_of_their_entry() {
        let two = change("a").bytes() + change("b").bytes();
        let mut pending = PendingChanges::new(two);
        for key in ["a", "b", "c", "d"] {
            pending.push(change(key));
        }
        pending.end_entry(1);
        pending.push(change("e"));
        pending.end_entry(2);
        assert_eq!(
            (pending.begins_after(), pending.last_index()),
            (Some(1), Some(2))
        );
        assert_eq!(drained(&mut pending), [pair(2, "e")]);
        // Over several entries: those before are useless without the last one.
        for (index, key) in [(3, "a"), (4, "b"), (5, "c")] {
            pending.push(change(key));
            pending.end_entry(index);
        }
        assert_eq!(pending.begins_after(), Some(5));
        assert!(drained(&mut pending).is_empty());
    }

    #[test]
    fn omitted_changes_and_a_bound_of_zero_record_nothing() {
        let mut pending = PendingChanges::new(10_000);
        pending.push(change("a"));
        pending.end_entry(1);
        pending.omit();
        pending.push(change("b"));
        assert!(!pending.is_recording());
        pending.end_entry(2);
        assert_eq!(pending.begins_after(), Some(2));
        pending.push(change("c"));
        pending.end_entry(3);
        assert_eq!(drained(&mut pending), [pair(3, "c")]);
        let mut disabled = PendingChanges::new(0);
        for index in 1..3 {
            assert!(!disabled.is_recording());
            disabled.push(change(""));
            disabled.end_entry(index);
            assert_eq!(disabled.begins_after(), Some(index));
        }
        assert!(drained(&mut disabled).is_empty());
    }

    #[test]
    fn a_discarded_batch_leaves_nothing() {
        let mut pending = PendingChanges::new(10_000);
        pending.push(change("a"));
        pending.end_entry(1);
        pending.omit();
        pending.clear();
        assert_eq!((pending.begins_after(), pending.last_index()), (None, None));
        pending.push(change("b"));
        pending.end_entry(1);
        assert_eq!(drained(&mut pending), [pair(1, "b")]);
    }
}
