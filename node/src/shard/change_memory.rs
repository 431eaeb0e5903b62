//! Bounded memory of a replica's recent changes.
//!
//! Invariants:
//! - it has all changes of the entries behind `begins_after` up to `last_index`, in the order of
//!   the log. So entries are evicted as a whole, the oldest first;
//! - its size never exceeds both bounds together. Beyond the first one only what a pin needs is
//!   kept, and for a moment what remains to be evicted after the end of a pin.

use std::collections::VecDeque;
use std::time::Instant;

use super::change_pins::ChangePins;
use super::pending_changes::PendingChanges;
use super::remembered_change::RememberedChange;
use crate::types::{BucketId, KeyFilter};

/// Maximum number of changes that are read under one lock, rounded up to a whole entry.
pub(super) const MAX_SCANNED_CHANGES: usize = 2048;
/// Maximum number of changes that are evicted under one lock while the memory isn't full.
const MAX_EVICTED_CHANGES: usize = 2048;
/// Number of changes up to which the memory for them is never released.
const MIN_CAPACITY: usize = 256;

/// Bounds of a replica's memory of recent changes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangeLimits {
    /// Normal bound; 0: nothing is recorded.
    pub max_bytes: usize,
    /// Bytes that pins may add.
    pub max_pinned_bytes: usize,
}

impl ChangeLimits {
    /// Returns the bound with what pins may add; 0 if nothing is recorded.
    pub(super) fn total(self) -> usize {
        match self.max_bytes {
            0 => 0,
            max_bytes => max_bytes.saturating_add(self.max_pinned_bytes),
        }
    }
}

/// Range of a shard's log, and what of its changes is read.
#[derive(Clone, Copy, Debug)]
pub struct ChangesRange<'a> {
    /// Changes of later entries only.
    pub after: u64,
    /// Changes up to this entry only; `u64::MAX` for all.
    pub up_to: u64,
    /// Changes of this bucket only.
    pub bucket: Option<&'a BucketId>,
    /// Changes of these keys only, and drops of their bucket.
    pub filter: Option<&'a KeyFilter>,
    /// Number of changes at which a page ends, at the end of an entry; it has one entry's in any
    /// case.
    pub limit: usize,
}

/// Result of reading under one lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadStep {
    /// Complete up to this entry, and it goes on behind it.
    More(u64),
    /// Complete up to this entry, at which the page ends.
    End(u64),
    /// The memory doesn't reach back; it ends with this entry.
    TooOld(u64),
}

/// Recent changes of one replica.
#[derive(Debug)]
pub(super) struct ChangeMemory {
    changes: VecDeque<RememberedChange>,
    bytes: usize,
    limits: ChangeLimits,
    /// Last entry whose changes are not all here.
    begins_after: u64,
    /// Last entry whose effects readers see.
    last_index: u64,
    pins: ChangePins,
}

impl ChangeMemory {
    /// Creates a memory that begins behind an entry.
    pub(super) fn new(limits: ChangeLimits, last_index: u64) -> Self {
        Self {
            changes: VecDeque::new(),
            bytes: 0,
            limits,
            begins_after: last_index,
            last_index,
            pins: ChangePins::default(),
        }
    }

    /// Last entry whose effects readers see.
    pub(super) fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Returns whether it has all changes behind an entry.
    pub(super) fn reaches_back_to(&self, after: u64) -> bool {
        after >= self.begins_after
    }

    /// Returns the memory that its changes take, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the changes of a batch that was written.
    pub(super) fn publish(&mut self, pending: &mut PendingChanges) {
        let Some(last) = pending.last_index() else {
            return;
        };
        if let Some(index) = pending.begins_after() {
            self.begin_after(index);
        }
        self.last_index = last;
        for change in pending.drain() {
            self.bytes += change.bytes();
            self.changes.push_back(change);
        }
    }

    /// Begins anew behind an entry, the last one of a state that has replaced the former one.
    pub(super) fn restart(&mut self, index: u64) {
        self.begin_after(index);
        self.last_index = index;
    }

    fn begin_after(&mut self, index: u64) {
        self.changes = VecDeque::new();
        self.bytes = 0;
        self.begins_after = index;
        self.pins.break_at(index);
    }

    /// Reads the changes of a range behind `after` into `found`, for a bounded time.
    pub(super) fn read(
        &self,
        range: &ChangesRange<'_>,
        after: u64,
        found: &mut Vec<RememberedChange>,
    ) -> ReadStep {
        if !self.reaches_back_to(after) {
            return ReadStep::TooOld(self.last_index);
        }
        let end = range.up_to.min(self.last_index);
        if end <= after {
            return ReadStep::End(after.min(self.last_index));
        }
        let first = self.changes.partition_point(|it| it.index() <= after);
        let mut entry = after;
        for (scanned, change) in self.changes.range(first..).enumerate() {
            let index = change.index();
            if index > end {
                break;
            }
            // Neither a page nor a step ends within an entry.
            if index != entry {
                if found.len() >= range.limit.max(1) {
                    return ReadStep::End(index - 1);
                }
                if scanned >= MAX_SCANNED_CHANGES {
                    return ReadStep::More(index - 1);
                }
                entry = index;
            }
            if change.is_selected(range.bucket, range.filter) {
                found.push(change.clone());
            }
        }
        ReadStep::End(end)
    }

    /// Evicts the oldest entries beyond the bounds, a bounded number of them unless both bounds are
    /// exceeded. Returns whether there are more to evict.
    pub(super) fn trim(&mut self) -> bool {
        let mut evicted = 0;
        while self.bytes > self.limits.max_bytes
            && let Some(oldest) = self.changes.front().map(RememberedChange::index)
        {
            if self.bytes > self.limits.total() {
                self.pins.break_at(oldest);
            } else if self.pins.need(oldest) {
                break;
            } else if evicted >= MAX_EVICTED_CHANGES {
                return true;
            }
            evicted += self.evict_entry(oldest);
        }
        self.release_capacity();
        false
    }

    /// Evicts the changes of the oldest entry, and returns their number.
    fn evict_entry(&mut self, index: u64) -> usize {
        let before = self.changes.len();
        while self.changes.front().is_some_and(|it| it.index() == index)
            && let Some(change) = self.changes.pop_front()
        {
            self.bytes -= change.bytes();
        }
        self.begins_after = index;
        before - self.changes.len()
    }

    /// Releases memory that pinned changes have taken.
    fn release_capacity(&mut self) {
        let count = self.changes.len().max(MIN_CAPACITY);
        if self.changes.capacity() > 4 * count {
            self.changes.shrink_to(2 * count);
        }
    }

    /// Keeps the changes behind an entry until then. Returns whether they are all here, and kept.
    pub(super) fn pin(&mut self, id: u64, after: u64, until: Instant) -> bool {
        if self.reaches_back_to(after) {
            return self.pins.set(id, after, until);
        }
        self.pins.remove(id);
        false
    }

    /// Removes a pin.
    pub(super) fn unpin(&mut self, id: u64) {
        self.pins.remove(id);
    }

    /// Returns whether there are pins, some of which may have ended.
    pub(super) fn has_pins(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Removes the pins that have ended.
    pub(super) fn expire_pins(&mut self, now: Instant) {
        self.pins.expire(now);
    }
}

#[cfg(test)]
#[path = "change_memory_tests.rs"]
mod tests;
