//! Applied state of all groups, in one RocksDB without a write-ahead log.
//!
//! Invariant: each batch holds the effects of whole log entries together with the applied position
//! after them, and all rows are in one column family. So a crash always leaves the state after some
//! entry, including that entry's position.
//!
//! Flushed rows are durable, also those that a killed process may have flushed without a final
//! sync: opening writes a new MANIFEST with everything that it has read, and syncs it, as long as
//! RocksDB's `reuse_manifest_on_open` is off. Purges of the log rely on that.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{
    Cache, DB, DBRawIterator, Options, ReadOptions, ReadTier, Snapshot, WriteBatch, WriteOptions,
};

use tokio::sync::{OwnedMutexGuard, watch};

use super::blocking::{StallWatch, blocking};
use super::damage::{Damage, GroupDamage};
use super::error::StoreError;
use super::keys::GroupId;
use super::rebuild::StateDirs;

/// Result of a read that doesn't wait for the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Content of the row.
    Row(Bytes),
    /// There is no such row.
    Nothing,
    /// Not in memory: the disk has to be read.
    NotCached,
}

/// State database. Cheap to clone.
#[derive(Clone)]
pub struct StateDb {
    inner: Arc<Inner>,
}

struct Inner {
    db: DB,
    removing: Mutex<()>,
    damage: Damage,
    dirs: StateDirs,
    cache: Mutex<Cache>,
    cache_bytes: usize,
    no_wal: WriteOptions,
    cached: ReadOptions,
    persisted: ReadOptions,
    all: ReadOptions,
    stalls: StallWatch,
}

/// Changes of rows that are written atomically.
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

    /// Returns the size of the batch, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.size_in_bytes()
    }
}

/// Range of rows to scan.
#[derive(Clone, Debug)]
pub struct Scan {
    /// First key.
    pub from: Vec<u8>,
    /// End, exclusive.
    pub to: Vec<u8>,
    /// True to keep the blocks read in the cache: not for full scans.
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

impl Inner {
    /// Handles the failure of a read of a row, or of a scan that began there. If it has met damage,
    /// compactions are stopped: see `rebuild`.
    fn failed_read(&self, row: &[u8], error: rocksdb::Error) -> StoreError {
        if self.damage.note(row, &error)
            && let Err(error) = self.keep_files(&error)
        {
            // A compaction that meets the damage would fail all writes, and with them the node.
            tracing::error!(%error, "stopping compactions of the damaged state failed");
        }
        StoreError::on("read", "state row")(error)
    }

    /// Handles the failure of a write: a compaction may have met damage, after which RocksDB
    /// refuses all writes. The next start finds out which group's rows are damaged.
    fn failed_write(&self, verb: &'static str, error: rocksdb::Error) -> StoreError {
        if error.kind() == rocksdb::ErrorKind::Corruption
            && !self.dirs.is_marked()
            && let Err(error) = self.keep_files(&error)
        {
            tracing::error!(%error, "marking the damaged state failed");
        }
        StoreError::on(verb, "state batch")(error)
    }

    fn keep_files(&self, reason: &rocksdb::Error) -> Result<(), StoreError> {
        self.dirs
            .set_mark(reason.as_ref())
            .map_err(StoreError::on("mark", "state directory"))?;
        self.db
            .set_options(&[("disable_auto_compactions", "true")])
            .map_err(StoreError::on("configure", "state database"))
    }
}

fn walk(
    state: &Inner,
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
    rows.status()
        .map_err(|error| state.failed_read(from, error))
}

/// Snapshot of the database, for several consistent reads.
pub struct Frozen<'a> {
    rows: Snapshot<'a>,
    state: &'a Inner,
}

impl Frozen<'_> {
    /// Reads a row: blocks.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let row = self.rows.get_pinned(key);
        let row = row.map_err(|error| self.state.failed_read(key, error))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Scans rows until `visit` breaks: blocks.
    pub fn scan(
        &self,
        scan: &Scan,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let rows = self.rows.raw_iterator_opt(scan.options());
        walk(self.state, rows, &scan.from, visit)
    }
}

impl StateDb {
    /// Opens the state in `dir`, of a data directory.
    pub(super) fn open(
        data_dir: &Path,
        dir: &Path,
        options: &Options,
        (cache, cache_bytes): (&Cache, usize),
    ) -> Result<Self, StoreError> {
        let db = DB::open(options, dir).map_err(StoreError::on("open", "state database"))?;
        // Bounds the range tombstones of a memtable, which each read has to check.
        db.set_options(&[("memtable_max_range_deletions", "1000")])
            .map_err(StoreError::on("configure", "state database"))?;
        let mut no_wal = WriteOptions::default();
        no_wal.disable_wal(true);
        let read_options = |tier| {
            let mut options = ReadOptions::default();
            options.set_read_tier(tier);
            options
        };
        let inner = Inner {
            removing: Mutex::new(()),
            damage: Damage::default(),
            dirs: StateDirs::new(data_dir),
            cache: Mutex::new(cache.clone()),
            cache_bytes,
            db,
            no_wal,
            cached: read_options(ReadTier::BlockCache),
            persisted: read_options(ReadTier::Persisted),
            all: ReadOptions::default(),
            stalls: StallWatch::new(),
        };
        let state = Self {
            inner: Arc::new(inner),
        };
        state.finish_removals()?;
        Ok(state)
    }

    pub(super) fn db(&self) -> &DB {
        &self.inner.db
    }

    /// Returns the lock held while key ranges are removed: one removal at a time.
    pub(super) fn removing(&self) -> &Mutex<()> {
        &self.inner.removing
    }

    /// Reads a row from memory only.
    pub fn get_cached(&self, key: &[u8]) -> Result<Found, StoreError> {
        match self.inner.db.get_pinned_opt(key, &self.inner.cached) {
            Ok(Some(row)) => Ok(Found::Row(Bytes::copy_from_slice(&row))),
            Ok(None) => Ok(Found::Nothing),
            Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => Ok(Found::NotCached),
            Err(error) => Err(self.inner.failed_read(key, error)),
        }
    }

    /// Reads a row, from the disk if necessary: blocks.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_with(key, &self.inner.all)
    }

    /// Reads a row as last flushed: blocks.
    pub fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_with(key, &self.inner.persisted)
    }

    fn get_with(&self, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, StoreError> {
        let row = self.inner.db.get_pinned_opt(key, options);
        let row = row.map_err(|error| self.inner.failed_read(key, error))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Returns the damage that reads have met, or will meet, of a group's rows.
    pub fn damage_of(&self, group: GroupId) -> Arc<GroupDamage> {
        self.inner.damage.of(group)
    }

    /// Subscribes to whether reads have met damage of any group's rows.
    pub fn any_damage(&self) -> watch::Receiver<bool> {
        self.inner.damage.any()
    }

    /// Waits for the lock held while all rows of a group are checked: one group at a time.
    pub async fn check_turn(&self) -> OwnedMutexGuard<()> {
        self.inner.damage.checking().lock_owned().await
    }

    /// Evicts all cached blocks, so that reads go to the disk.
    pub fn drop_cached_blocks(&self) {
        let mut cache = self.inner.cache.lock();
        cache.set_capacity(0);
        cache.set_capacity(self.inner.cache_bytes);
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
        written.map_err(|error| self.inner.failed_write("write", error))
    }

    /// Makes everything written so far durable: blocks for as long as that takes.
    pub fn flush(&self) -> Result<(), StoreError> {
        let flushed = self.inner.db.flush();
        flushed.map_err(|error| self.inner.failed_write("flush", error))
    }

    /// Returns the size of the active memtable, which isn't flushed yet, in bytes.
    pub fn unflushed_bytes(&self) -> u64 {
        self.number(c"rocksdb.cur-size-active-mem-table")
    }

    /// Returns the size of the SST files, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.number(c"rocksdb.total-sst-files-size")
    }

    /// Returns the estimated number of rows.
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

    /// Scans rows in one consistent view, until `visit` breaks: blocks.
    pub fn scan(
        &self,
        scan: Scan,
        visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let rows = self.inner.db.raw_iterator_opt(scan.options());
        walk(&self.inner, rows, &scan.from, visit)
    }

    /// Takes a snapshot of all rows as they are now, unaffected by later writes.
    pub fn frozen(&self) -> Frozen<'_> {
        Frozen {
            rows: self.inner.db.snapshot(),
            state: &self.inner,
        }
    }
}
