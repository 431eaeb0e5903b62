//! Frees old segments.
//!
//! A segment is reused when no entry in it is needed. But some groups write much and others almost
//! nothing, and the last entries of those would keep all segments since in use. So the needed
//! entries of an old segment are written again at the end of the log, if they are few, or if the
//! log has grown far beyond its needed entries (segment cleaning, Rosenblum and Ousterhout 1992).

use super::frame::Kind;
use super::index::Place;
use super::{SegmentLog, State};
use crate::store::error::StoreError;
use crate::store::keys::GroupId;

/// Divisor of the segment size: a segment with fewer needed bytes than this fraction is cleaned.
const LITTLE: u64 = 4;
/// Number of the newest segments that are never cleaned.
const NEWEST: u64 = 4;

/// Entry of an old segment.
struct Old {
    group: GroupId,
    number: u64,
    place: Place,
}

impl SegmentLog {
    /// Relocates the needed entries of the oldest segment, if it should be cleaned: blocks. Returns
    /// the number of relocated entries. To be called periodically.
    pub fn tidy(&self) -> Result<usize, StoreError> {
        let old = {
            let state = self.shared.state.lock();
            let segment = state.worth_moving(self.shared.settings.segment_bytes);
            segment.map_or_else(Vec::new, |segment| state.entries_of(segment))
        };
        let mut moved = 0;
        for entry in old {
            moved += usize::from(self.move_entry(&entry)?);
        }
        if moved > 0 {
            self.shared.wake(self.shared.state.lock());
        }
        Ok(moved)
    }

    fn move_entry(&self, old: &Old) -> Result<bool, StoreError> {
        let source = {
            let state = self.shared.state.lock();
            // It may have been purged meanwhile, and its segment be freed. An entry that is still
            // needed is in a segment of the log.
            if !state.is_at(old) {
                return Ok(false);
            }
            state.source(old.group, old.number, old.place)?
        };
        let bytes = source.read()?;
        let mut state = self.shared.state.lock();
        // It may have been purged or replaced while it was read.
        if !state.is_at(old) {
            return Ok(false);
        }
        let write = |out: &mut Vec<u8>| out.extend_from_slice(&bytes);
        let place = state.push_entry(Kind::Moved, old.group, old.number, write)?;
        state.index.put(old.group, old.number, place);
        state.removed = state.tail.at();
        Ok(true)
    }
}

impl State {
    /// Returns whether an entry is still needed, and still at this location.
    fn is_at(&self, old: &Old) -> bool {
        let log = self.index.group(old.group);
        log.and_then(|log| log.entries.get(&old.number)) == Some(&old.place)
    }

    /// Returns the first segment with needed entries, if it should be cleaned.
    fn worth_moving(&self, segment_bytes: u64) -> Option<u64> {
        let newest = self.tail.at().segment();
        let needed = |segment: &u64| self.index.needed(*segment).entries > 0;
        let first = (self.oldest..newest).find(needed)?;
        let segments_after = newest - first;
        let is_sparse = self.index.needed(first).bytes < segment_bytes / LITTLE;
        let is_log_sparse = 2 * self.index.bytes() < segments_after * segment_bytes;
        (segments_after >= NEWEST && (is_sparse || is_log_sparse)).then_some(first)
    }

    fn entries_of(&self, segment: u64) -> Vec<Old> {
        let mut old = Vec::new();
        for (group, log) in self.index.groups() {
            let in_segment = log
                .entries
                .iter()
                .filter(|(_, place)| place.at.segment() == segment);
            old.extend(in_segment.map(|(number, place)| Old {
                group,
                number: *number,
                place: *place,
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
    const RESTING: GroupId = GroupId(1);

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
        append(&log, RESTING, 1);
        let old = {
            let state = log.shared.state.lock();
            state.entries_of(state.oldest).pop().unwrap()
        };
        log.purge(RESTING, 1, b"1").unwrap();
        let freed = (1..100).find(|number| {
            append(&log, BUSY, *number);
            let state = log.shared.state.lock();
            !state.segments.contains_key(&old.place.at.segment())
        });
        assert!(freed.is_some());
        assert!(!log.move_entry(&old).unwrap());
    }
}
