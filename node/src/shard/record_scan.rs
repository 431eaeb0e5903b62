//! Scans of all live records of a shard, in one consistent view.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;

use super::record;
use super::rows::read_header;
use super::view::ShardView;
use crate::raft::applied_index;
use crate::store::keys::{self, RowKind};
use crate::store::{Scan, StoreError};
use crate::types::Nanos;

/// Maximum number of records in a chunk.
const MAX_CHUNK_RECORDS: usize = 1000;
/// Approximate maximum size of a chunk, in bytes.
const MAX_CHUNK_BYTES: usize = 512 << 10;
/// Maximum number of rows that are read for a chunk, few of which may be live.
const MAX_CHUNK_ROWS: usize = 20_000;
/// Size of a record in a chunk beside its key, value and metadata, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// Chunk of a scan of all records.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordChunk {
    /// First chunk.
    Start {
        /// Index of the last entry whose effects the view has.
        applied_index: u64,
        /// Time of the newest version that the shard has ever applied.
        last_version: Nanos,
    },
    /// Records in the order of buckets and keys, without their positions in histories of regions.
    /// There may be none, where no row is live.
    Records(Vec<pb::KeyRecord>),
}

impl ShardView {
    /// Streams the records that are live at `now` to `sink`, in one view: blocks. Fails if the rows
    /// were replaced meanwhile.
    pub fn scan_records(
        &self,
        now: Nanos,
        mut sink: impl FnMut(RecordChunk) -> io::Result<()>,
    ) -> io::Result<()> {
        let rows = self.rows();
        let now = self.read_time(now);
        let db = self.db.db_snapshot();
        let last_version = read_header(&db, rows)?.last_version;
        sink(RecordChunk::Start {
            applied_index: applied_index(&db, rows)?,
            last_version,
        })?;
        let (from, to) = rows.all_of_kind(RowKind::Record);
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        let (mut records, mut bytes, mut read_rows) = (Vec::new(), 0, 0);
        db.try_scan(&scan, |row, record| {
            let Some((bucket, key)) = keys::split_record(row) else {
                let error = StoreError::corrupt("record", "its row key is too short");
                return Err(io::Error::from(error));
            };
            let record = record::decode(Bytes::copy_from_slice(record))?;
            read_rows += 1;
            if record::is_live(&record, now) {
                bytes += record::counted_bytes(key, &record) as usize + RECORD_OVERHEAD_BYTES;
                records.push(pb::KeyRecord {
                    bucket: Bytes::copy_from_slice(bucket),
                    key: Bytes::copy_from_slice(key),
                    record: Some(pb::Record {
                        change: 0,
                        source: 0,
                        ..record
                    }),
                });
            }
            let is_full = records.len() >= MAX_CHUNK_RECORDS || bytes >= MAX_CHUNK_BYTES;
            if is_full || read_rows >= MAX_CHUNK_ROWS {
                (bytes, read_rows) = (0, 0);
                sink(RecordChunk::Records(std::mem::take(&mut records)))?;
            }
            Ok::<_, io::Error>(ControlFlow::Continue(()))
        })?;
        if !records.is_empty() {
            sink(RecordChunk::Records(records))?;
        }
        if self.rows() == rows {
            Ok(())
        } else {
            Err(io::Error::other("the shard's state was replaced"))
        }
    }
}

#[cfg(test)]
#[path = "record_scan_tests.rs"]
mod tests;
