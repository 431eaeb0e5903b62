//! Changes of records: each updates everything that is derived from records.
//!
//! That is the expiry index, the tombstone index, the change index (see `retained`), the counts and
//! the digests.

use std::io;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::peers::acknowledged_by_all;
use super::record;
use super::state::ShardState;
use crate::store::RowBatch;
use crate::types::Version;

/// Size of a retained change beside its key and value, in bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// Reason for a change of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangeCause {
    /// A write of this region: it is sent to the others.
    Written,
    /// The record's expiry: other regions expire it by themselves. A retained change stays
    /// retained.
    Expired,
    /// Another region's write, which has won; or the collection of a tombstone.
    Merged,
    /// Another region's value, which has won, and expired on its way: a tombstone stands for it.
    MergedExpired,
}

/// Change of a record, with its content before and after.
pub(super) struct RecordChange<'a> {
    pub bucket: &'a Bytes,
    pub key: &'a Bytes,
    pub row: Vec<u8>,
    pub old: Option<pb::Record>,
    pub new: Option<pb::Record>,
    pub cause: ChangeCause,
}

impl ShardState {
    /// Returns the record that replaces a removed one: a tombstone while there are other regions,
    /// else none.
    pub(super) fn new_tombstone(&self, version: Version) -> Option<pb::Record> {
        let kept = !self.header.peers.is_empty();
        kept.then(|| pb::Record {
            version: Some(version.into()),
            tombstone: true,
            ..Default::default()
        })
    }

    /// Returns the tombstone that replaces an expired record: of the same version, since the key
    /// expired and nobody wrote it, and at the same position in its region's history.
    pub(super) fn expired_tombstone(&self, old: &pb::Record) -> Option<pb::Record> {
        let tombstone = self.new_tombstone(record::version_of(old))?;
        Some(pb::Record {
            change: old.change,
            source: old.source,
            ..tombstone
        })
    }

    /// Replaces a record, and updates everything derived from records: expiry index, tombstone
    /// index, change index, counts and digest.
    pub(super) fn apply_change(
        &mut self,
        mut change: RecordChange<'_>,
        batch: &mut RowBatch,
    ) -> io::Result<()> {
        if let Some(at) = change.old.as_ref().and_then(record::expiry_of) {
            batch.delete(self.rows.expiry(at, change.bucket, change.key));
        }
        if let Some(at) = change.new.as_ref().and_then(record::expiry_of) {
            let row = self.rows.expiry(at, change.bucket, change.key);
            batch.put(&row, b"");
            if self.expiry_from.as_ref().is_some_and(|from| row < *from) {
                self.expiry_from = Some(row);
            }
            self.header.expiry_low = self.header.expiry_low.min(at);
            self.view.lower_next_expiry(at);
        }
        self.index_tombstone(&change, batch);
        self.index_change(&mut change, batch);
        self.update_counts(&change)?;
        self.record_visible_change(&change);
        let new = change.new.map(|new| Bytes::from(new.encode_to_vec()));
        match &new {
            Some(new) => batch.put(&change.row, new),
            None if change.old.is_some() => batch.delete(&change.row),
            None => {}
        }
        self.record_cache.insert(change.row, new);
        Ok(())
    }

    fn is_retained(&self, record: &pb::Record) -> bool {
        record.change > acknowledged_by_all(&self.header)
    }

    /// Adds a change of this region to the change index, and removes the entry that it replaces.
    fn index_change(&mut self, change: &mut RecordChange<'_>, batch: &mut RowBatch) {
        let before = change.old.as_ref().filter(|old| self.is_retained(old));
        let before = before.map(|old| (old.change, retained_bytes(change.key, old)));
        let kept = change.cause != ChangeCause::Written && change.new.is_some();
        if let Some((sequence, bytes)) = before {
            self.header.retained_changes = self.header.retained_changes.saturating_sub(1);
            self.header.retained_bytes = self.header.retained_bytes.saturating_sub(bytes);
            if !kept {
                batch.delete(self.rows.change(sequence));
            }
        }
        let Some(new) = change.new.as_mut() else {
            return;
        };
        match (change.cause, before) {
            (ChangeCause::Written, _) if self.header.peers.is_empty() => return,
            (ChangeCause::Written, _) => {
                self.header.change_last += 1;
                new.change = self.header.change_last;
            }
            (_, Some((sequence, _))) => new.change = sequence,
            (ChangeCause::Merged | ChangeCause::MergedExpired, None) => {
                new.change = 0;
                return;
            }
            // It keeps its position, which all regions have acknowledged.
            (ChangeCause::Expired, None) => return,
        }
        let bytes = retained_bytes(change.key, new);
        let entry = pb::Change {
            bucket: change.bucket.clone(),
            key: change.key.clone(),
            bytes,
        };
        batch.put(self.rows.change(new.change), entry.encode_to_vec());
        self.header.retained_changes += 1;
        self.header.retained_bytes += bytes;
    }

    /// Updates the tombstone index.
    fn index_tombstone(&self, change: &RecordChange<'_>, batch: &mut RowBatch) {
        let row = |record: &pb::Record| {
            let time = record::version_of(record).time;
            self.rows.tombstone(time, change.bucket, change.key)
        };
        if let Some(old) = change.old.as_ref().filter(|old| old.tombstone) {
            batch.delete(row(old));
        }
        if let Some(new) = change.new.as_ref().filter(|new| new.tombstone) {
            batch.put(row(new), b"");
        }
    }

    fn update_counts(&mut self, change: &RecordChange<'_>) -> io::Result<()> {
        let contribution = |record: &Option<pb::Record>| match record {
            Some(record) => {
                let keys = u64::from(!record.tombstone);
                let bytes = keys * record::counted_bytes(change.key, record);
                (
                    keys,
                    bytes,
                    record::digest(change.bucket, change.key, record),
                )
            }
            None => (0, 0, 0),
        };
        let (old_keys, old_bytes, old_digest) = contribution(&change.old);
        let (new_keys, new_bytes, new_digest) = contribution(&change.new);
        let bucket = self.bucket(change.bucket)?;
        bucket.keys = bucket.keys.saturating_sub(old_keys) + new_keys;
        bucket.bytes = bucket.bytes.saturating_sub(old_bytes) + new_bytes;
        bucket.digest = bucket
            .digest
            .wrapping_sub(old_digest)
            .wrapping_add(new_digest);
        let digest = self.header.digest.wrapping_sub(old_digest);
        self.header.digest = digest.wrapping_add(new_digest);
        Ok(())
    }
}

fn retained_bytes(key: &[u8], record: &pb::Record) -> u64 {
    record::counted_bytes(key, record) + ENTRY_OVERHEAD_BYTES
}
