//! Frees old segments.
//!
//! A segment is reused when no entry in it is needed. But some groups write much and others almost
//! nothing, and the last entries of those would keep all segments since in use. So the needed
//! entries of an old segment are written again at the end of the log, if they are few, or if the
//! log has grown far beyond its needed entries (segment cleaning, Rosenblum and Ousterhout 1992).

use super::frame::FrameKind;
use super::index::EntryLocation;
use super::segment_log::SegmentLog;
use super::shared_log::LogState;
use crate::store::error::StoreError;
use crate::store::keys::GroupId;

/// Divisor of the segment size: a segment with fewer needed bytes than this fraction is cleaned.
const SPARSE_DIVISOR: u64 = 4;
/// Number of the newest segments that are never cleaned.
const MIN_AGE_SEGMENTS: u64 = 4;

/// Entry of an old segment.
struct OldEntry {
    group: GroupId,
    number: u64,
    location: EntryLocation,
}

impl SegmentLog {
    /// Relocates the needed entries of the oldest segment, if it should be cleaned: blocks. Returns
    /// the number of relocated entries. To be called periodically.
    pub fn clean(&self) -> Result<usize, StoreError> {
        let old = {
            let state = self.shared.state.lock();
            let segment = state.segment_to_clean(self.shared.settings.segment_bytes);
            segment.map_or_else(Vec::new, |segment| state.entries_in(segment))
        };
        let mut moved = 0;
        for entry in old {
            moved += usize::from(self.relocate_entry(&entry)?);
        }
        if moved > 0 {
            self.shared.wake(self.shared.state.lock());
        }
        Ok(moved)
    }

    fn relocate_entry(&self, old: &OldEntry) -> Result<bool, StoreError> {
        let source = {
            let state = self.shared.state.lock();
            // It may have been purged meanwhile, and its segment be freed. An entry that is still
            // needed is in a segment of the log.
            if !state.is_current(old) {
                return Ok(false);
            }
            state.entry_source(old.group, old.number, old.location)?
        };
        let bytes = source.read()?;
        let mut state = self.shared.state.lock();
        // It may have been purged or replaced while it was read.
        if !state.is_current(old) {
            return Ok(false);
        }
        let write = |out: &mut Vec<u8>| out.extend_from_slice(&bytes);
        let place = state.push_entry(FrameKind::Relocated, old.group, old.number, write)?;
        state.index.put(old.group, old.number, place);
        state.last_removal = state.tail.position();
        Ok(true)
    }
}

impl LogState {
    /// Returns whether an entry is still needed, and still at this location.
    fn is_current(&self, old: &OldEntry) -> bool {
        let log = self.index.group(old.group);
        log.and_then(|log| log.entries.get(&old.number)) == Some(&old.location)
    }

    /// Returns the first segment with needed entries, if it should be cleaned.
    fn segment_to_clean(&self, segment_bytes: u64) -> Option<u64> {
        let newest = self.tail.position().segment();
        let needed = |segment: &u64| self.index.usage(*segment).entries > 0;
        let first = (self.oldest_segment..newest).find(needed)?;
        let segments_after = newest - first;
        let is_sparse = self.index.usage(first).bytes < segment_bytes / SPARSE_DIVISOR;
        let is_log_sparse = 2 * self.index.bytes() < segments_after * segment_bytes;
        (segments_after >= MIN_AGE_SEGMENTS && (is_sparse || is_log_sparse)).then_some(first)
    }

    fn entries_in(&self, segment: u64) -> Vec<OldEntry> {
        let mut old = Vec::new();
        for (group, log) in self.index.groups() {
            let in_segment = log
                .entries
                .iter()
                .filter(|(_, place)| place.at.segment() == segment);
            old.extend(in_segment.map(|(number, place)| OldEntry {
                group,
                number: *number,
                location: *place,
            }));
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::model_tests::{SETTINGS, open};
    use super::*;

    const BUSY: GroupId = GroupId(0);
    const IDLE: GroupId = GroupId(1);

    /// Appends an entry of half a segment, and waits until it is durable.
    fn append(log: &SegmentLog, group: GroupId, number: u64) {
        let (done, wait) = mpsc::channel();
        let done = Box::new(move |result| done.send(result).unwrap());
        let size = usize::try_from(SETTINGS.segment_bytes / 2).unwrap();
        let entry = |out: &mut Vec<u8>| out.extend(std::iter::repeat_n(7, size));
        log.append(group, [(number, entry)], None, done).unwrap();
        wait.recv().unwrap().unwrap();
    }

    #[test]
    fn an_entry_whose_segment_was_freed_meanwhile_is_not_relocated() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir);
        append(&log, IDLE, 1);
        let old = {
            let state = log.shared.state.lock();
            state.entries_in(state.oldest_segment).pop().unwrap()
        };
        log.purge(IDLE, 1, b"1").unwrap();
        let freed = (1..100).find(|number| {
            append(&log, BUSY, *number);
            let state = log.shared.state.lock();
            !state.segments.contains_key(&old.location.at.segment())
        });
        assert!(freed.is_some());
        assert!(!log.relocate_entry(&old).unwrap());
    }
}
