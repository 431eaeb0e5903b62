//! Old segments made free.
//!
//! A segment is used again when no entry in it is needed. But some groups write much and others
//! nearly nothing, and the last entries of those would hold up all segments since. So what is
//! needed of an old segment is written again at the end of the log, if it is little, or if the log
//! has grown far beyond what is needed of it.

use super::frame::Kind;
use super::index::Place;
use super::{SegmentLog, State};
use crate::store::error::StoreError;
use crate::store::keys::GroupId;

/// A segment of which less than one part in so many is needed is worth moving.
const LITTLE: u64 = 4;
/// The newest segments stay as they are.
const NEWEST: u64 = 4;

/// An entry of an old segment.
struct Old {
    group: GroupId,
    number: u64,
    place: Place,
}

impl SegmentLog {
    /// Moves what is needed of the oldest segment, if that is worth it: blocks. Returns how many
    /// entries it moved. To be called now and then.
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
            state.source(old.group, old.number, old.place)?
        };
        let bytes = source.read()?;
        let mut state = self.shared.state.lock();
        // It may have been purged or replaced meanwhile.
        let log = state.index.group(old.group);
        if log.and_then(|log| log.entries.get(&old.number)) != Some(&old.place) {
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
    /// The first segment that holds entries, if they should be moved.
    fn worth_moving(&self, segment_bytes: u64) -> Option<u64> {
        let newest = self.tail.at().segment();
        let needed = |segment: &u64| self.index.needed(*segment).entries > 0;
        let first = (self.oldest..newest).find(needed)?;
        let behind = newest - first;
        let is_little = self.index.needed(first).bytes < segment_bytes / LITTLE;
        let log_is_mostly_free = 2 * self.index.bytes() < behind * segment_bytes;
        (behind >= NEWEST && (is_little || log_is_mostly_free)).then_some(first)
    }

    fn entries_of(&self, segment: u64) -> Vec<Old> {
        let mut old = Vec::new();
        for (group, log) in self.index.groups() {
            let there = log
                .entries
                .iter()
                .filter(|(_, place)| place.at.segment() == segment);
            old.extend(there.map(|(number, place)| Old {
                group,
                number: *number,
                place: *place,
            }));
        }
        old
    }
}
