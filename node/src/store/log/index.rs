//! Contents of the log, in memory: each group's vote and positions, and its entries' locations.
//!
//! It is derived from the log's records alone, by the same functions while the log runs and during
//! recovery: so both yield the same.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::frame::{Frame, FrameKind};
use crate::store::keys::GroupId;

/// Position in the log: segment and offset, in the order of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogPosition(u64);

impl LogPosition {
    /// Creates the position at `offset` of a segment.
    pub(super) fn new(segment: u64, offset: u64) -> Self {
        Self(segment << 32 | offset & u64::from(u32::MAX))
    }

    /// Converts the number of a position back.
    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Returns the position as a number, in the same order.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// Returns the number of the segment.
    pub(super) fn segment(self) -> u64 {
        self.0 >> 32
    }

    /// Returns the offset in the segment, in bytes.
    pub(super) fn offset(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// Location of an entry's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryLocation {
    /// Position of the first byte.
    pub at: LogPosition,
    /// Length in bytes.
    pub len: u32,
}

/// Log of one group.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupLog {
    /// Last vote.
    pub vote: Option<Bytes>,
    /// Last stored committed position.
    pub committed: Option<Bytes>,
    /// Index up to which the log was purged, and its position.
    pub purged: Option<(u64, Bytes)>,
    /// Locations of the entries, by index.
    pub entries: BTreeMap<u64, EntryLocation>,
}

/// Data of a segment that is still needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentUsage {
    /// Number of needed entries.
    pub entries: u64,
    /// Size of these entries in bytes.
    pub bytes: u64,
}

/// Contents of the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    groups: BTreeMap<GroupId, GroupLog>,
    usage: BTreeMap<u64, SegmentUsage>,
}

/// Error of a record that is invalid at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidRecord(pub &'static str);

impl Index {
    /// Returns a group, if the log has a record of it.
    pub(super) fn group(&self, group: GroupId) -> Option<&GroupLog> {
        self.groups.get(&group)
    }

    /// Returns all groups.
    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, &GroupLog)> {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// Returns the data of a segment that is still needed.
    pub(super) fn usage(&self, segment: u64) -> SegmentUsage {
        self.usage.get(&segment).copied().unwrap_or_default()
    }

    /// Returns the size of all entries in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.usage.values().map(|needed| needed.bytes).sum()
    }

    /// Applies a record at position `at`.
    pub(super) fn apply(
        &mut self,
        frame: &Frame<'_>,
        at: LogPosition,
    ) -> Result<(), InvalidRecord> {
        let Some(kind) = frame.kind else {
            return Err(InvalidRecord(
                "it holds a record of a kind that this version doesn't know: upgrade it",
            ));
        };
        let short = InvalidRecord("it holds a record that is too short for its kind");
        match kind {
            FrameKind::SegmentBegin | FrameKind::SegmentEnd | FrameKind::Release => {}
            FrameKind::Entry | FrameKind::Relocated => {
                let (index, entry) = frame.split_number().ok_or(short)?;
                let offset = at.offset() + (frame.len() - entry.len()) as u64;
                let place = EntryLocation {
                    at: LogPosition::new(at.segment(), offset),
                    len: u32::try_from(entry.len()).unwrap_or(u32::MAX),
                };
                if kind == FrameKind::Entry {
                    self.append(frame.group, index, place);
                } else {
                    self.put(frame.group, index, place);
                }
            }
            FrameKind::Vote => self.set_vote(frame.group, frame.body),
            FrameKind::Committed => self.set_committed(frame.group, frame.body),
            FrameKind::Purge => {
                let (index, position) = frame.split_number().ok_or(short)?;
                self.purge(frame.group, index, position);
            }
            FrameKind::Truncate => {
                let (index, _) = frame.split_number().ok_or(short)?;
                self.truncate(frame.group, index);
            }
        }
        Ok(())
    }

    fn group_mut(&mut self, group: GroupId) -> &mut GroupLog {
        self.groups.entry(group).or_default()
    }

    /// Sets the group's last vote.
    pub(super) fn set_vote(&mut self, group: GroupId, vote: &[u8]) {
        self.group_mut(group).vote = Some(Bytes::copy_from_slice(vote));
    }

    /// Sets the group's committed position.
    pub(super) fn set_committed(&mut self, group: GroupId, committed: &[u8]) {
        self.group_mut(group).committed = Some(Bytes::copy_from_slice(committed));
    }

    /// Adds an entry, and truncates the log after it.
    pub(super) fn append(&mut self, group: GroupId, index: u64, place: EntryLocation) {
        self.truncate(group, index);
        self.put(group, index, place);
    }

    /// Sets the location of an entry.
    pub(super) fn put(&mut self, group: GroupId, index: u64, place: EntryLocation) {
        let old = self.group_mut(group).entries.insert(index, place);
        if let Some(old) = old {
            self.release_usage([old]);
        }
        let needed = self.usage.entry(place.at.segment()).or_default();
        needed.entries += 1;
        needed.bytes += u64::from(place.len);
    }

    /// Removes the entries from `index` on.
    pub(super) fn truncate(&mut self, group: GroupId, index: u64) {
        let entries = &mut self.group_mut(group).entries;
        if entries
            .last_key_value()
            .is_some_and(|(last, _)| *last >= index)
        {
            let removed = entries.split_off(&index);
            self.release_usage(removed.into_values());
        }
    }

    /// Removes the entries up to `index`, whose position is `position`.
    pub(super) fn purge(&mut self, group: GroupId, index: u64, position: &[u8]) {
        let group = self.group_mut(group);
        group.purged = Some((index, Bytes::copy_from_slice(position)));
        let rest = group.entries.split_off(&index.saturating_add(1));
        let removed = std::mem::replace(&mut group.entries, rest);
        self.release_usage(removed.into_values());
    }

    /// Purges all groups again, so that no purged entry reappears from an older segment.
    pub(super) fn reapply_purges(&mut self) {
        let purged = self.groups.iter().filter_map(|(id, group)| {
            let (index, position) = group.purged.clone()?;
            Some((*id, index, position))
        });
        for (group, index, position) in purged.collect::<Vec<_>>() {
            self.purge(group, index, &position);
        }
    }

    fn release_usage(&mut self, places: impl IntoIterator<Item = EntryLocation>) {
        for place in places {
            let segment = place.at.segment();
            if let Some(needed) = self.usage.get_mut(&segment) {
                needed.entries = needed.entries.saturating_sub(1);
                needed.bytes = needed.bytes.saturating_sub(u64::from(place.len));
                if needed.entries == 0 {
                    self.usage.remove(&segment);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn location(segment: u64, offset: u64) -> EntryLocation {
        EntryLocation {
            at: LogPosition::new(segment, offset),
            len: 10,
        }
    }

    fn filled() -> Index {
        let mut index = Index::default();
        for entry in 1..=4 {
            index.append(GROUP, entry, location(1, entry * 10));
        }
        index.append(GROUP, 5, location(2, 0));
        index
    }

    fn indexes(index: &Index) -> Vec<u64> {
        let group = index.group(GROUP).unwrap();
        group.entries.keys().copied().collect()
    }

    #[test]
    fn positions_are_ordered_by_segment_and_offset() {
        let (a, b) = (
            LogPosition::new(1, u64::from(u32::MAX)),
            LogPosition::new(2, 0),
        );
        assert!(a < b);
        assert_eq!((a.segment(), a.offset()), (1, u64::from(u32::MAX)));
        assert_eq!(LogPosition::from_number(b.number()), b);
    }

    #[test]
    fn an_entry_truncates_the_log_and_a_relocated_one_does_not() {
        let mut index = filled();
        index.put(GROUP, 2, location(3, 0));
        assert_eq!(indexes(&index), [1, 2, 3, 4, 5]);
        index.append(GROUP, 3, location(3, 10));
        assert_eq!(indexes(&index), [1, 2, 3]);
    }

    #[test]
    fn the_usage_of_each_segment_is_updated() {
        let mut index = filled();
        let entries = |index: &Index, segment| index.usage(segment).entries;
        assert_eq!((entries(&index, 1), entries(&index, 2)), (4, 1));
        assert_eq!(index.bytes(), 50);
        index.put(GROUP, 1, location(2, 10));
        assert_eq!((entries(&index, 1), entries(&index, 2)), (3, 2));
        index.truncate(GROUP, 4);
        assert_eq!((entries(&index, 1), entries(&index, 2)), (2, 1));
        index.purge(GROUP, 3, b"3");
        assert_eq!(index.bytes(), 0);
        assert_eq!(indexes(&index), [0_u64; 0]);
    }

    #[test]
    fn purged_entries_do_not_reappear() {
        let mut index = filled();
        index.purge(GROUP, 2, b"2");
        index.put(GROUP, 1, location(1, 10));
        index.reapply_purges();
        assert_eq!(indexes(&index), [3, 4, 5]);
        assert_eq!(index.group(GROUP).unwrap().purged.as_ref().unwrap().0, 2);
    }
}
