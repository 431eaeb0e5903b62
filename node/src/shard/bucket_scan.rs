//! Scans of a bucket's live keys, in one consistent view.

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::record;
use super::view::ShardView;
use crate::raft::applied_index;
use crate::store::keys;
use crate::store::{Scan, StoreError};
use crate::types::{Nanos, StoredValue};

/// Maximum number of records in a chunk.
const MAX_CHUNK_RECORDS: usize = 1000;
/// Approximate maximum size of a chunk, in bytes.
const MAX_CHUNK_BYTES: usize = 512 << 10;
/// Maximum number of rows that are read for a chunk, few of which may be live.
const MAX_CHUNK_ROWS: usize = 20_000;
/// Size of a record in a chunk beside its key, value and metadata, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Chunk of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanChunk {
    /// First chunk.
    Start {
        /// Index of the last entry whose effects the view has.
        applied_index: u64,
    },
    /// Keys in ascending order, with their values. There may be none, where no row is live: so the
    /// scan is paced there as well, and ends when its reader is gone.
    Records(Vec<(Bytes, StoredValue)>),
}

impl ShardView {
    /// Streams the keys of a bucket that begin with `prefix` and are live at `now` to `sink`, in
    /// one view: blocks. Fails if the rows were replaced meanwhile.
    pub fn scan_bucket(
        &self,
        bucket: &[u8],
        prefix: &[u8],
        now: Nanos,
        mut sink: impl FnMut(ScanChunk) -> io::Result<()>,
    ) -> io::Result<()> {
        let rows = self.rows();
        let now = self.read_time(now);
        let db = self.db.db_snapshot();
        sink(ScanChunk::Start {
            applied_index: applied_index(&db, rows)?,
        })?;
        let from = rows.record(bucket, prefix);
        let to = keys::prefix_end(&from);
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        let (mut records, mut bytes, mut read_rows) = (Vec::new(), 0, 0);
        db.try_scan(&scan, |row, record| {
            let Some((_, key)) = keys::split_record(row) else {
                let error = StoreError::corrupt("record", "its row key is too short");
                return Err(io::Error::from(error));
            };
            let record = record::decode(Bytes::copy_from_slice(record))?;
            read_rows += 1;
            if record::is_live(&record, now) {
                bytes += record::counted_bytes(key, &record) as usize + RECORD_OVERHEAD_BYTES;
                records.push((Bytes::copy_from_slice(key), record::into_entry(record)));
            }
            let is_full = records.len() >= MAX_CHUNK_RECORDS || bytes >= MAX_CHUNK_BYTES;
            if is_full || read_rows >= MAX_CHUNK_ROWS {
                (bytes, read_rows) = (0, 0);
                sink(ScanChunk::Records(std::mem::take(&mut records)))?;
            }
            Ok::<_, io::Error>(ControlFlow::Continue(()))
        })?;
        if !records.is_empty() {
            sink(ScanChunk::Records(records))?;
        }
        if self.rows() == rows {
            Ok(())
        } else {
            Err(io::Error::other("the shard's state was replaced"))
        }
    }
}

#[cfg(test)]
#[path = "bucket_scan_tests.rs"]
mod tests;
