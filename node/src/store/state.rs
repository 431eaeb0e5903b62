//! The applied state of all groups, in one RocksDB without a write-ahead log.
//!
//! Invariant: each batch holds the effects of whole log entries together with the applied
//! position after them, and all rows live in one column family. So whatever a crash leaves is the
//! state after some entry, and that entry's position is in it.
//!
//! What was flushed is durable, also what a killed process may have flushed without a last sync:
//! opening writes a new MANIFEST with all that it has read, and syncs it, as long as RocksDB's
//! `reuse_manifest_on_open` is off. The log is purged by that.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    DB, DBRawIterator, Options, ReadOptions, ReadTier, Snapshot, WriteBatch, WriteOptions,
};

use super::blocking::{StallWatch, blocking};
use super::error::StoreError;

/// What a read that doesn't wait for the disk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The row.
    Row(Bytes),
    /// There is no such row.
    Nothing,
    /// Only the disk knows.
    NotCached,
}

/// The state database. Cheap to clone.
#[derive(Clone)]
pub struct StateDb {
    inner: Arc<Inner>,
}

struct Inner {
    db: DB,
    no_wal: WriteOptions,
    cached: ReadOptions,
    persisted: ReadOptions,
    all: ReadOptions,
    stalls: StallWatch,
}

/// Rows that change together.
#[derive(Default)]
pub struct Batch(WriteBatch);

impl Batch {
    /// Writes a row.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.put(key, value);
    }

    /// Removes a row.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.0.delete(key);
    }

    /// Removes the rows from `from` to `to` (exclusive).
    pub fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.0.delete_range(from, to);
    }

    /// Size of the batch, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.size_in_bytes()
    }
}

/// A range of rows to walk.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The first key.
    pub from: Vec<u8>,
    /// The end, exclusive.
    pub to: Vec<u8>,
    /// Whether the blocks read should stay in the cache: not for walks over everything.
    pub fill_cache: bool,
}

impl Scan {
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.fill_cache(self.fill_cache);
        options.set_iterate_upper_bound(self.to.clone());
        options
    }
}

fn walk(
    mut rows: DBRawIterator<'_>,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    rows.seek(from);
    while let Some((key, value)) = rows.item() {
        if visit(key, value).is_break() {
            break;
        }
        rows.next();
    }
    rows.status().map_err(StoreError::on("walk", "state rows"))
}

/// Rows as they were at one moment: several reads that belong together.
pub struct Frozen<'a>(Snapshot<'a>);

impl Frozen<'_> {
    /// Reads a row: blocks.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let row = self.0.get_pinned(key);
        let row = row.map_err(StoreError::on("read", "state row"))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Walks over rows until `visit` breaks: blocks.
    pub fn scan(
        &self,
        scan: &Scan,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let rows = self.0.raw_iterator_opt(scan.options());
        walk(rows, &scan.from, visit)
    }
}

impl StateDb {
    pub(super) fn open(dir: &Path, options: &Options) -> Result<Self, StoreError> {
        let db = DB::open(options, dir).map_err(StoreError::on("open", "state database"))?;
        // Each read looks through the range tombstones of the write buffer: not through many.
        db.set_options(&[("memtable_max_range_deletions", "1000")])
            .map_err(StoreError::on("configure", "state database"))?;
        let mut no_wal = WriteOptions::default();
        no_wal.disable_wal(true);
        let tier = |tier| {
            let mut options = ReadOptions::default();
            options.set_read_tier(tier);
            options
        };
        let inner = Inner {
            db,
            no_wal,
            cached: tier(ReadTier::BlockCache),
            persisted: tier(ReadTier::Persisted),
            all: ReadOptions::default(),
            stalls: StallWatch::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Reads a row from memory, if memory can tell.
    pub fn get_cached(&self, key: &[u8]) -> Result<Found, StoreError> {
        match self.inner.db.get_pinned_opt(key, &self.inner.cached) {
            Ok(Some(row)) => Ok(Found::Row(Bytes::copy_from_slice(&row))),
            Ok(None) => Ok(Found::Nothing),
            Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => Ok(Found::NotCached),
            Err(error) => Err(StoreError::on("read", "state row")(error)),
        }
    }

    /// Reads a row, from the disk if need be: blocks.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_with(key, &self.inner.all)
    }

    /// Reads what is flushed of a row: blocks.
    pub fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_with(key, &self.inner.persisted)
    }

    fn get_with(&self, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, StoreError> {
        let row = self.inner.db.get_pinned_opt(key, options);
        let row = row.map_err(StoreError::on("read", "state row"))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Writes a batch: visible when this returns, durable only when flushed. While flushes and
    /// compactions lag, it waits for them without holding up the runtime's other tasks.
    pub fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let write = || self.inner.db.write_opt(batch.0, &self.inner.no_wal);
        let written = if self.inner.stalls.is_stalling(&self.inner.db) {
            blocking(write)
        } else {
            write()
        };
        written.map_err(StoreError::on("write", "state batch"))
    }

    /// Makes everything written so far durable: blocks for as long as that takes.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner
            .db
            .flush()
            .map_err(StoreError::on("flush", "state"))
    }

    /// Bytes that are only in memory, in write buffers that were not flushed yet.
    pub fn unflushed_bytes(&self) -> u64 {
        self.number(c"rocksdb.cur-size-active-mem-table")
    }

    /// Size of the files, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.number(c"rocksdb.total-sst-files-size")
    }

    /// Roughly how many rows there are.
    pub fn estimated_rows(&self) -> u64 {
        self.number(c"rocksdb.estimate-num-keys")
    }

    fn number(&self, property: &std::ffi::CStr) -> u64 {
        self.inner
            .db
            .property_int_value(property)
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    /// Walks over rows in one consistent view, until `visit` breaks: blocks.
    pub fn scan(
        &self,
        scan: Scan,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let rows = self.inner.db.raw_iterator_opt(scan.options());
        walk(rows, &scan.from, visit)
    }

    /// All rows as they are now, whatever is written while they are read.
    pub fn frozen(&self) -> Frozen<'_> {
        Frozen(self.inner.db.snapshot())
    }

    /// Gives back the files that lie wholly in a range whose rows were all removed.
    pub fn drop_files(&self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.inner
            .db
            .delete_file_in_range(from, to)
            .map_err(StoreError::on("remove", "state files"))
    }
}
