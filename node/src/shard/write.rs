//! Applies puts and deletes (`WriteBatch`) to a shard.

use std::io;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, condition::Kind as Condition, write::Op};
use prost::Message;

use super::record;
use super::state::{ShardResponse, ShardState, is_bucket_name};
use crate::store::RowBatch;
use crate::types::{Nanos, Version, WriteReceipt};

/// Outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was applied.
    Written(WriteReceipt),
    /// Its condition didn't hold.
    ConditionFailed,
    /// The key is new, and no quota was reserved for it.
    NoQuota,
    /// The bucket is dropped.
    BucketDropped,
}

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
    pub(super) fn apply_writes(
        &mut self,
        writes: &pb::WriteBatch,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        let mut outcomes = Vec::with_capacity(writes.writes.len());
        for write in &writes.writes {
            outcomes.push(self.apply_write(writes.time, write, batch)?);
        }
        Ok(ShardResponse::Writes(outcomes))
    }

    fn apply_write(
        &mut self,
        time: Nanos,
        write: &pb::Write,
        batch: &mut RowBatch,
    ) -> io::Result<WriteOutcome> {
        if !is_bucket_name(&write.bucket) || self.bucket(&write.bucket)?.dropped {
            return Ok(WriteOutcome::BucketDropped);
        }
        let row = self.rows.record(&write.bucket, &write.key);
        let old = self.record(&row)?;
        let now = time.max(self.header.last_version + 1);
        let live = old.as_ref().filter(|record| record::is_live(record, now));
        if !condition_holds(write.condition.as_ref(), live)? {
            return Ok(WriteOutcome::ConditionFailed);
        }
        let existed = live.is_some();
        let needs_quota = old.as_ref().is_none_or(|record| record.tombstone);
        if needs_quota && matches!(&write.op, Some(Op::Put(put)) if !put.may_create) {
            return Ok(WriteOutcome::NoQuota);
        }
        let version = Version {
            time: self.next_version(time),
            region: self.header.region,
        };
        let new = match &write.op {
            Some(Op::Put(put)) => Some(pb::Record {
                version: Some(version.into()),
                expires_at: if put.ttl == 0 {
                    0
                } else {
                    version.time.saturating_add(put.ttl)
                },
                content_type: put.content_type.clone(),
                value: put.value.clone(),
                ..Default::default()
            }),
            Some(Op::Delete(_)) => self.new_tombstone(version),
            None => return Err(unknown_write_error()),
        };
        let expires_at = new.as_ref().and_then(record::expiry_of);
        self.apply_change(
            RecordChange {
                bucket: &write.bucket,
                key: &write.key,
                row,
                old,
                new,
                cause: ChangeCause::Written,
            },
            batch,
        )?;
        Ok(WriteOutcome::Written(WriteReceipt {
            version,
            existed,
            expires_at,
        }))
    }

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
            batch.put(self.rows.expiry(at, change.bucket, change.key), b"");
            self.header.expiry_low = self.header.expiry_low.min(at);
            self.view.lower_next_expiry(at);
        }
        self.index_tombstone(&change, batch);
        self.index_change(&mut change, batch);
        self.update_counts(&change)?;
        let new = change.new.map(|new| Bytes::from(new.encode_to_vec()));
        match &new {
            Some(new) => batch.put(&change.row, new),
            None if change.old.is_some() => batch.delete(&change.row),
            None => {}
        }
        self.record_cache.insert(change.row, new);
        Ok(())
    }

    fn update_counts(&mut self, change: &RecordChange<'_>) -> io::Result<()> {
        let contribution = |record: &Option<pb::Record>| match record {
            Some(record) => {
                let keys = u64::from(!record.tombstone);
                let bytes = keys * (change.key.len() + record.value.len()) as u64;
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

fn condition_holds(
    condition: Option<&pb::Condition>,
    live: Option<&pb::Record>,
) -> io::Result<bool> {
    let is_one_of = |versions: &pb::Versions| {
        live.and_then(|record| record.version)
            .is_some_and(|version| versions.any.contains(&version))
    };
    let Some(condition) = condition else {
        return Ok(true);
    };
    match &condition.kind {
        Some(Condition::Exists(_)) => Ok(live.is_some()),
        Some(Condition::Absent(_)) => Ok(live.is_none()),
        Some(Condition::Versions(versions)) => Ok(is_one_of(versions)),
        Some(Condition::NotVersions(versions)) => Ok(!is_one_of(versions)),
        // A condition of a kind that a later version has added.
        None => Err(unknown_write_error()),
    }
}

fn unknown_write_error() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "the log holds a write of a kind that this version of cloudkv-node does not know: \
         upgrade it",
    )
}
