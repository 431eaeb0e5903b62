//! One region: a replicated state machine, modelled as one state that never loses a commit.
//!
//! Its Raft group, its nodes and its leaders are not modelled: all of a leader's state is in this
//! one, or in flight.

use crate::record::{BUCKET_KEY, Kind, MAX_KEYS, MAX_REGIONS, Rank, Record, Records, Version};
use crate::rules::{Overwritten, Rules, Watermark};

/// Membership of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Not a region yet.
    Absent,
    /// A donor's view was taken, and the bulk copy is in progress.
    Joining,
    Serving,
    /// Lost for good. Messages that it has sent may still arrive.
    Lost,
}

/// An entry of the change index; at most one for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub seq: u8,
    /// Time of the local change, which a merge may have overwritten.
    pub time: u8,
}

/// A region's committed state about another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub incarnation: u8,
    /// Sequence up to which the peer has acknowledged this region's changes.
    pub acked: u8,
    /// Sequence up to which the peer's changes were merged here.
    pub cursor: u8,
    /// The last watermark that the peer has announced.
    pub watermark: u8,
    /// Sequence up to which all regions have the peer's changes.
    pub stable: u8,
    pub fenced: bool,
    /// The initial cursor of a newcomer (for the properties only).
    pub first_cursor: u8,
}

impl Peer {
    pub(crate) fn new(incarnation: u8, acked: u8, cursor: u8) -> Self {
        Self {
            incarnation,
            acked,
            cursor,
            watermark: 0,
            stable: 0,
            fenced: false,
            first_cursor: cursor,
        }
    }
}

/// The state of one shard in one region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Region {
    pub id: u8,
    pub mode: Mode,
    pub incarnation: u8,
    pub records: Records,
    pub entries: [Option<Entry>; MAX_KEYS],
    pub last_version: u8,
    pub last_seq: u8,
    pub peers: [Option<Peer>; MAX_REGIONS],
    /// The bucket of key 0 was dropped here.
    pub dropped: bool,
    /// The highest rank that this region has ever stored (for the properties only).
    pub highest_seen: [Option<Rank>; MAX_KEYS],
}

impl Region {
    pub(crate) fn new(id: usize) -> Self {
        Self {
            id: id as u8,
            mode: Mode::Absent,
            incarnation: 0,
            records: [None; MAX_KEYS],
            entries: [None; MAX_KEYS],
            last_version: 0,
            last_seq: 0,
            peers: [None; MAX_REGIONS],
            dropped: false,
            highest_seen: [None; MAX_KEYS],
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.mode == Mode::Serving
    }

    pub(crate) fn refuses(&self, key: usize) -> bool {
        key == BUCKET_KEY && self.dropped
    }

    fn last_version(&self, rules: &Rules) -> u8 {
        if rules.last_version_stored {
            return self.last_version;
        }
        let times = self.records.iter().flatten().map(|r| r.version.time);
        times.max().unwrap_or(0)
    }

    fn store(&mut self, key: usize, record: Record) {
        self.records[key] = Some(record);
        self.highest_seen[key] = self.highest_seen[key].max(Some(record.rank()));
    }

    /// Returns the version that a write gets at this clock.
    pub(crate) fn next_version(&self, clock: u8, rules: &Rules) -> Version {
        Version {
            time: clock.max(self.last_version(rules) + 1),
            region: self.id,
        }
    }

    /// Applies a user's write.
    pub(crate) fn write(&mut self, key: usize, kind: Kind, clock: u8, rules: &Rules) -> Record {
        let version = self.next_version(clock, rules);
        self.last_version = self.last_version.max(version.time);
        self.last_seq += 1;
        let record = Record {
            version,
            kind,
            incarnation: self.incarnation,
            seq: self.last_seq,
        };
        let is_absent = self.records[key].is_none_or(|record| record.is_tombstone());
        let leaves_nothing =
            kind == Kind::Tombstone && is_absent && !rules.absent_delete_leaves_tombstone;
        if !leaves_nothing {
            self.store(key, record);
            self.entries[key] = Some(Entry {
                seq: self.last_seq,
                time: version.time,
            });
        }
        self.clean_index(rules);
        record
    }

    /// Expires a record.
    pub(crate) fn expire(&mut self, key: usize, rules: &Rules) {
        let Some(mut record) = self.records[key] else {
            return;
        };
        if !rules.expiry_keeps_version {
            self.write(key, Kind::Tombstone, 0, rules);
            return;
        }
        record.kind = Kind::Tombstone;
        self.store(key, record);
        if !rules.expiry_keeps_entry {
            self.entries[key] = None;
        }
    }

    /// Drops the bucket of key 0.
    pub(crate) fn drop_bucket(&mut self) {
        self.dropped = true;
        self.records[BUCKET_KEY] = None;
        self.entries[BUCKET_KEY] = None;
    }

    /// Merges a record from another region: from a stream, a bulk copy or a survivor.
    pub(crate) fn merge_record(&mut self, key: usize, record: Record, rules: &Rules) {
        if rules.merge_raises_last_version {
            self.last_version = self.last_version.max(record.version.time);
        }
        if self.refuses(key) && rules.marker_refuses_merges {
            return;
        }
        let wins = match self.records[key] {
            None => true,
            Some(old) if rules.tie_tombstone_wins => record.rank() > old.rank(),
            Some(old) => record.version >= old.version,
        };
        if !wins {
            return;
        }
        self.store(key, record);
        if rules.overwritten == Overwritten::DropEntry {
            self.entries[key] = None;
        }
    }

    /// Returns the watermark that is announced with a position.
    pub(crate) fn watermark(&self, position: u8, rules: &Rules) -> u8 {
        if self.mode == Mode::Joining && rules.watermark_0_while_joining {
            return 0;
        }
        let last = self.last_version(rules);
        let unsent = self.entries.iter().flatten();
        let unsent = unsent.filter(|entry| entry.seq > position);
        match rules.watermark {
            Watermark::AtLastSequence if position < self.last_seq => 0,
            Watermark::AtLastSequence | Watermark::LastVersion => last,
            Watermark::BelowEntries => unsent.map(|e| e.time - 1).min().unwrap_or(last),
        }
    }

    /// Returns the sequence of the first entry after a position.
    pub(crate) fn first_seq_after(&self, position: u8) -> Option<u8> {
        let seqs = self.entries.iter().flatten().map(|entry| entry.seq);
        seqs.filter(|seq| *seq > position).min()
    }

    /// Returns the records of the entries after `from` up to `to`, without the peer's own writes.
    pub(crate) fn changes(&self, from: u8, to: u8, peer: usize) -> Records {
        let mut changes = [None; MAX_KEYS];
        for (key, change) in changes.iter_mut().enumerate() {
            let entry = self.entries[key].filter(|entry| entry.seq > from && entry.seq <= to);
            if entry.is_some() {
                *change = self.records[key].filter(|r| usize::from(r.version.region) != peer);
            }
        }
        changes
    }

    /// Returns the sequence up to which every peer has this region's changes.
    pub(crate) fn acked_by_all(&self, rules: &Rules) -> u8 {
        let acked = self.peers.iter().flatten().map(|peer| peer.acked);
        let all = if rules.entry_waits_for_every_peer {
            acked.min()
        } else {
            acked.max()
        };
        all.unwrap_or(self.last_seq)
    }

    /// Removes entries that every peer has acknowledged.
    ///
    /// This happens in the entry that changes the acknowledgements. A later clean-up would be
    /// equivalent: such an entry is after no position from which a batch is sent.
    pub(crate) fn clean_index(&mut self, rules: &Rules) {
        let acked = self.acked_by_all(rules);
        for entry in &mut self.entries {
            *entry = entry.filter(|entry| entry.seq > acked);
        }
    }

    /// Commits an acknowledgement.
    pub(crate) fn acknowledge(&mut self, peer: usize, cursor: u8, rules: &Rules) {
        if let Some(peer) = &mut self.peers[peer] {
            peer.acked = peer.acked.max(cursor);
        }
        self.clean_index(rules);
    }

    /// Returns whether the rules allow to collect the tombstone of a key.
    pub(crate) fn can_collect(&self, key: usize, rules: &Rules) -> bool {
        let Some(record) = self.records[key].filter(Record::is_tombstone) else {
            return false;
        };
        let is_allowed =
            self.is_serving() || (self.mode == Mode::Joining && !rules.joining_collects_nothing);
        let seen = |peer: &Peer| peer.watermark >= record.version.time;
        is_allowed
            && self.is_stable(key, &record, rules)
            && (!rules.tombstone_waits_for_watermark || self.peers.iter().flatten().all(seen))
    }

    /// Returns whether all regions have a tombstone.
    fn is_stable(&self, key: usize, record: &Record, rules: &Rules) -> bool {
        let origin = record.version.region;
        if origin == self.id && record.incarnation == self.incarnation {
            return self.entries[key].is_none() || !rules.tombstone_waits_for_entry;
        }
        match self.peers[usize::from(origin)] {
            Some(peer) if peer.incarnation == record.incarnation => {
                peer.stable >= record.seq || !rules.tombstone_waits_for_stable
            }
            _ => rules.removed_origin_is_stable,
        }
    }
}
