//! Reads the changes that other regions are sent, each time in one consistent view.
//!
//! Invariant: a batch and the watermark sent with it are of one view, and only a batch that ends
//! where the view ends carries one: no later change of this region has a version at or below it.
//! (The index has one entry per key, so a batch that ends earlier can't promise that.)

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;

use super::peers::lowest_watermark;
use super::record;
use super::retained::is_collectable;
use super::rows::{decode_bucket, decode_change, for_each_row, is_bucket_name, read_header};
use super::view::ShardView;
use crate::store::keys::{self, RowKind, Rows};
use crate::store::{DbSnapshot, Scan, StoreError};
use crate::types::Nanos;

/// Consecutive changes of this region's history.
#[derive(Debug)]
pub struct ChangeBatch {
    /// Message for the other region, without its `stable`.
    pub merge: pb::Merge,
    /// True if there are more changes after it.
    pub has_more: bool,
}

/// Chunk of a bulk copy for a region that joins.
pub enum BulkCopyChunk {
    /// First chunk: the view's cursor in each region's history.
    Header(pb::SeedPosition),
    /// Records and dropped buckets.
    Records(pb::SeedChunk),
}

/// Maximum number of records in a batch or chunk.
const MAX_BATCH_RECORDS: usize = 1000;
/// Approximate maximum size of a batch or chunk, in bytes.
const MAX_BATCH_BYTES: usize = 512 << 10;

/// Range of changes to read for one other region.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangeQuery {
    /// Number of the region.
    pub peer: u32,
    /// Position up to which it has all changes.
    pub after: u64,
    /// Maximum number of records.
    pub max_records: usize,
}

impl ShardView {
    /// Reads the next batch of changes for region `peer`, which has all up to `position`: blocks
    /// for the disk.
    pub fn changes_after(&self, peer: u32, position: u64) -> Result<ChangeBatch, StoreError> {
        self.read_batch(ChangeQuery {
            peer,
            after: position,
            max_records: MAX_BATCH_RECORDS,
        })
    }

    pub(super) fn read_batch(&self, query: ChangeQuery) -> Result<ChangeBatch, StoreError> {
        self.read_consistent(|rows| read_batch(&self.db.db_snapshot(), rows, query))
    }

    /// Reads tombstones that can be collected, at most `limit`: blocks for the disk.
    pub fn collectable_tombstones(&self, limit: usize) -> Result<Vec<pb::Tombstone>, StoreError> {
        self.read_consistent(|rows| collectable_tombstones(&self.db.db_snapshot(), rows, limit))
    }

    /// Streams the whole shard to `sink`, in one view: blocks. Fails if the rows were replaced
    /// meanwhile.
    pub fn bulk_copy(&self, sink: impl FnMut(BulkCopyChunk) -> io::Result<()>) -> io::Result<()> {
        let rows = self.rows();
        copy_rows(&self.db.db_snapshot(), rows, sink)?;
        if self.rows() == rows {
            Ok(())
        } else {
            Err(io::Error::other("the shard's state was replaced"))
        }
    }
}

fn read_batch(
    db: &DbSnapshot<'_>,
    rows: Rows,
    query: ChangeQuery,
) -> Result<ChangeBatch, StoreError> {
    let position = query.after;
    let header = read_header(db, rows)?;
    let mut merge = pb::Merge {
        origin: header.region,
        incarnation: header.incarnation,
        from: position,
        to: header.change_last.max(position),
        watermark: header.last_version,
        ..Default::default()
    };
    let scan = Scan {
        from: rows.change(position.saturating_add(1)),
        to: rows.all_of_kind(RowKind::Change).1,
        fill_cache: true,
    };
    let (mut bytes, mut last, mut has_more) = (0, position, false);
    db.try_scan(&scan, |row, value| {
        let entry = decode_change(value)?;
        if merge.records.len() >= query.max_records || bytes >= MAX_BATCH_BYTES {
            merge.to = last;
            // The index omits what was overwritten: only a batch that reaches the view's end
            // carries a watermark.
            merge.watermark = 0;
            has_more = true;
            return Ok(ControlFlow::Break(()));
        }
        let sequence = keys::sequence_of(row)
            .ok_or_else(|| StoreError::corrupt("change index", "its row key is too short"))?;
        last = sequence;
        if let Some(record) = changed_record(db, rows, header.region, &entry, sequence)?
            && record::version_of(&record).region != query.peer
        {
            bytes += entry.key.len() + record.value.len() + 64;
            merge.records.push(pb::KeyRecord {
                bucket: entry.bucket,
                key: entry.key,
                record: Some(record),
            });
        }
        Ok::<_, StoreError>(ControlFlow::Continue(()))
    })?;
    Ok(ChangeBatch { merge, has_more })
}

/// Reads the record that an entry of the change index stands for; `None` if its bucket was dropped,
/// or it was collected.
fn changed_record(
    db: &DbSnapshot<'_>,
    rows: Rows,
    region: u32,
    entry: &pb::Change,
    sequence: u64,
) -> Result<Option<pb::Record>, StoreError> {
    let row = db.get(&rows.record(&entry.bucket, &entry.key))?;
    let record = row.map(record::decode).transpose()?;
    let changed = record.filter(|record| record.change == sequence);
    Ok(changed.map(|record| export_record(record, region)))
}

/// Converts a record of this region's shard to the form that other regions store.
fn export_record(record: pb::Record, region: u32) -> pb::Record {
    let own = record::version_of(&record).region == region;
    pb::Record {
        source: if own { record.change } else { record.source },
        change: 0,
        ..record
    }
}

fn collectable_tombstones(
    db: &DbSnapshot<'_>,
    rows: Rows,
    limit: usize,
) -> Result<Vec<pb::Tombstone>, StoreError> {
    let header = read_header(db, rows)?;
    let lowest = lowest_watermark(&header);
    let (from, to) = rows.all_of_kind(RowKind::Tombstone);
    let scan = Scan {
        from,
        to,
        fill_cache: true,
    };
    let mut candidates: Vec<(Nanos, Bytes, Bytes)> = Vec::new();
    // Some wait until their origin knows that all regions have them: skipped, within a bound.
    let mut remaining_rows = 8 * limit;
    let mut chosen = Vec::new();
    db.scan(&scan, |row, _| {
        remaining_rows = remaining_rows.saturating_sub(1);
        match keys::split_time_indexed(row) {
            Some((at, bucket, key)) if at <= lowest && remaining_rows > 0 => {
                candidates.push((
                    at,
                    Bytes::copy_from_slice(bucket),
                    Bytes::copy_from_slice(key),
                ));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        }
    })?;
    for (time, bucket, key) in candidates {
        let record = db.get(&rows.record(&bucket, &key))?;
        let record = record.map(record::decode).transpose()?;
        let current =
            record.filter(|record| record.tombstone && record::version_of(record).time == time);
        let version = match &current {
            Some(record) if !is_collectable(&header, record) => continue,
            Some(record) => record.version,
            // Only the index has it: the index row is collected, too.
            None => Some(pb::Version {
                time,
                ..Default::default()
            }),
        };
        chosen.push(pb::Tombstone {
            bucket,
            key,
            version,
        });
        if chosen.len() >= limit {
            break;
        }
    }
    Ok(chosen)
}

fn copy_rows(
    db: &DbSnapshot<'_>,
    rows: Rows,
    mut sink: impl FnMut(BulkCopyChunk) -> io::Result<()>,
) -> io::Result<()> {
    let header = read_header(db, rows)?;
    // This region's own history, up to the end of the view.
    let own = pb::PeerState {
        region: header.region,
        incarnation: header.incarnation,
        cursor: header.change_last,
        stable: 0,
        ..Default::default()
    };
    let mut cursors = header.peers.clone();
    cursors.push(own);
    sink(BulkCopyChunk::Header(pb::SeedPosition {
        cursors,
        last_version: header.last_version,
    }))?;
    let mut chunk = pb::SeedChunk::default();
    for_each_row(db, rows, RowKind::Bucket, |id, row| {
        let id = keys::id_of(id).unwrap_or_default();
        if decode_bucket(row)?.dropped && is_bucket_name(id) {
            chunk.dropped.push(Bytes::copy_from_slice(id));
            if chunk.dropped.len() >= MAX_BATCH_RECORDS {
                sink(BulkCopyChunk::Records(std::mem::take(&mut chunk)))?;
            }
        }
        Ok::<_, io::Error>(())
    })?;
    let mut bytes = 0;
    for_each_row(db, rows, RowKind::Record, |key, row| {
        let Some((bucket, name)) = keys::split_record(key) else {
            return Ok::<_, io::Error>(());
        };
        let record = export_record(record::decode(row)?, header.region);
        bytes += name.len() + record.value.len() + 64;
        chunk.records.push(pb::KeyRecord {
            bucket: Bytes::copy_from_slice(bucket),
            key: Bytes::copy_from_slice(name),
            record: Some(record),
        });
        if chunk.records.len() >= MAX_BATCH_RECORDS || bytes >= MAX_BATCH_BYTES {
            bytes = 0;
            sink(BulkCopyChunk::Records(std::mem::take(&mut chunk)))?;
        }
        Ok(())
    })?;
    sink(BulkCopyChunk::Records(chunk))
}
