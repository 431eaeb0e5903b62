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
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{Cache, DB, Options, ReadOptions, ReadTier, Snapshot, WriteBatch, WriteOptions};

use tokio::sync::{OwnedMutexGuard, watch};

use super::blocking::{StallWatch, blocking};
use super::damage::{DamageRegistry, GroupDamage};
use super::error::StoreError;
use super::keys::GroupId;
use super::scan::{self, Scan, ScanOrder, ScanStep};
use super::state_dirs::StateDirs;

/// Result of a read that doesn't wait for the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedRead {
    /// Content of the row.
    Row(Bytes),
    /// There is no such row.
    Absent,
    /// Not in memory: the disk has to be read.
    NotCached,
}

/// State database. Cheap to clone.
#[derive(Clone)]
pub struct StateDb {
    inner: Arc<StateDbInner>,
}

struct StateDbInner {
    db: DB,
    removal_lock: Mutex<()>,
    damage: DamageRegistry,
    dirs: StateDirs,
    cache: Mutex<Cache>,
    cache_bytes: usize,
    no_wal: WriteOptions,
    cache_only: ReadOptions,
    persisted_only: ReadOptions,
    all_tiers: ReadOptions,
    stall_watch: StallWatch,
}

/// Changes of rows that are written atomically.
#[derive(Default)]
pub struct RowBatch(WriteBatch);

impl RowBatch {
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

impl StateDbInner {
    /// Handles the failure of a read of a row, or of a scan that began there. If it has met damage,
    /// compactions are stopped: see `rebuild`.
    fn read_error(&self, row: &[u8], error: rocksdb::Error) -> StoreError {
        if self.damage.record_failed_read(row, &error)
            && let Err(error) = self.stop_compactions(&error)
        {
            // A compaction that meets the damage would fail all writes, and with them the node.
            tracing::error!(%error, "stopping compactions of the damaged state failed");
        }
        StoreError::on("read", "state row")(error)
    }

    /// Handles the failure of a scan, if it has failed.
    fn check_scan(
        &self,
        scan: &Scan,
        status: Result<(), rocksdb::Error>,
    ) -> Result<(), StoreError> {
        status.map_err(|error| self.read_error(&scan.from, error))
    }

    /// Handles the failure of a write: a compaction may have met damage, after which RocksDB
    /// refuses all writes. The next start finds out which group's rows are damaged.
    fn write_error(&self, verb: &'static str, error: rocksdb::Error) -> StoreError {
        if error.kind() == rocksdb::ErrorKind::Corruption
            && !self.dirs.is_marked()
            && let Err(error) = self.stop_compactions(&error)
        {
            tracing::error!(%error, "marking the damaged state failed");
        }
        StoreError::on(verb, "state batch")(error)
    }

    fn stop_compactions(&self, reason: &rocksdb::Error) -> Result<(), StoreError> {
        self.dirs
            .set_mark(reason.as_ref())
            .map_err(StoreError::on("mark", "state directory"))?;
        self.db
            .set_options(&[("disable_auto_compactions", "true")])
            .map_err(StoreError::on("configure", "state database"))
    }
}

/// Snapshot of the database, for several consistent reads.
pub struct DbSnapshot<'a> {
    rows: Snapshot<'a>,
    state: &'a StateDbInner,
}

impl DbSnapshot<'_> {
    /// Reads a row: blocks.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let row = self.rows.get_pinned(key);
        let row = row.map_err(|error| self.state.read_error(key, error))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Scans rows until `visit` breaks: blocks.
    pub fn scan(
        &self,
        scan: &Scan,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.try_scan(scan, |key, value| Ok(visit(key, value)))
    }

    /// Scans rows until `visit` breaks or fails: blocks.
    pub fn try_scan<E: From<StoreError>>(
        &self,
        scan: &Scan,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let mut rows = self.rows.raw_iterator_opt(scan.options());
        scan::read_rows(&mut rows, &scan.from, visit)?;
        Ok(self.state.check_scan(scan, rows.status())?)
    }

    /// Scans rows in either order, and skips those that `visit` doesn't need, until it ends the scan
    /// or fails: blocks.
    pub fn seek_scan<E: From<StoreError>>(
        &self,
        scan: &Scan,
        order: ScanOrder,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ScanStep, E>,
    ) -> Result<(), E> {
        let options = scan.bidirectional_options();
        let mut rows = self.rows.raw_iterator_opt(options);
        scan::read_rows_with_seeks(&mut rows, scan, order, visit)?;
        Ok(self.state.check_scan(scan, rows.status())?)
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
        let inner = StateDbInner {
            removal_lock: Mutex::new(()),
            damage: DamageRegistry::default(),
            dirs: StateDirs::new(data_dir),
            cache: Mutex::new(cache.clone()),
            cache_bytes,
            db,
            no_wal,
            cache_only: read_options(ReadTier::BlockCache),
            persisted_only: read_options(ReadTier::Persisted),
            all_tiers: ReadOptions::default(),
            stall_watch: StallWatch::new(),
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
    pub(super) fn removal_lock(&self) -> &Mutex<()> {
        &self.inner.removal_lock
    }

    /// Reads a row from memory only.
    pub fn get_cached(&self, key: &[u8]) -> Result<CachedRead, StoreError> {
        match self.inner.db.get_pinned_opt(key, &self.inner.cache_only) {
            Ok(Some(row)) => Ok(CachedRead::Row(Bytes::copy_from_slice(&row))),
            Ok(None) => Ok(CachedRead::Absent),
            Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => {
                Ok(CachedRead::NotCached)
            }
            Err(error) => Err(self.inner.read_error(key, error)),
        }
    }

    /// Reads a row, from the disk if necessary: blocks.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_with(key, &self.inner.all_tiers)
    }

    /// Reads a row as last flushed: blocks.
    pub fn get_persisted(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_with(key, &self.inner.persisted_only)
    }

    fn get_with(&self, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, StoreError> {
        let row = self.inner.db.get_pinned_opt(key, options);
        let row = row.map_err(|error| self.inner.read_error(key, error))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Returns the damage that reads have met, or will meet, of a group's rows.
    pub fn damage_of(&self, group: GroupId) -> Arc<GroupDamage> {
        self.inner.damage.of_group(group)
    }

    /// Subscribes to whether reads have met damage of any group's rows.
    pub fn watch_damage(&self) -> watch::Receiver<bool> {
        self.inner.damage.watch_any()
    }

    /// Waits for the lock held while all rows of a group are checked: one group at a time.
    pub async fn lock_check(&self) -> OwnedMutexGuard<()> {
        self.inner.damage.check_lock().lock_owned().await
    }

    /// Evicts all cached blocks, so that reads go to the disk.
    pub fn evict_cached_blocks(&self) {
        let mut cache = self.inner.cache.lock();
        cache.set_capacity(0);
        cache.set_capacity(self.inner.cache_bytes);
    }

    /// Writes a batch: visible when this returns, durable only when flushed. While flushes and
    /// compactions lag, it waits for them without holding up the runtime's other tasks.
    pub fn write(&self, batch: RowBatch) -> Result<(), StoreError> {
        let write = || self.inner.db.write_opt(batch.0, &self.inner.no_wal);
        let written = if self.inner.stall_watch.is_stalling(&self.inner.db) {
            blocking(write)
        } else {
            write()
        };
        written.map_err(|error| self.inner.write_error("write", error))
    }

    /// Makes everything written so far durable: blocks for as long as that takes.
    pub fn flush(&self) -> Result<(), StoreError> {
        let flushed = self.inner.db.flush();
        flushed.map_err(|error| self.inner.write_error("flush", error))
    }

    /// Copies the state as it is now to a directory that doesn't exist yet: as links to the same
    /// files, where the file system has them. Blocks.
    pub(super) fn copy_to(&self, dir: &Path) -> Result<(), StoreError> {
        self.flush()?;
        let checkpoint = Checkpoint::new(&self.inner.db);
        let copied = checkpoint.and_then(|checkpoint| checkpoint.create_checkpoint(dir));
        copied.map_err(StoreError::on("copy", "state database"))
    }

    /// Returns the size of the active memtable, which isn't flushed yet, in bytes.
    pub fn unflushed_bytes(&self) -> u64 {
        self.property(c"rocksdb.cur-size-active-mem-table")
    }

    /// Returns the size of the SST files, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.property(c"rocksdb.total-sst-files-size")
    }

    /// Returns the estimated number of rows.
    pub fn estimated_rows(&self) -> u64 {
        self.property(c"rocksdb.estimate-num-keys")
    }

    fn property(&self, property: &std::ffi::CStr) -> u64 {
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
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.try_scan(scan, |key, value| Ok(visit(key, value)))
    }

    /// Scans rows in one consistent view, until `visit` breaks or fails: blocks.
    pub fn try_scan<E: From<StoreError>>(
        &self,
        scan: Scan,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let mut rows = self.inner.db.raw_iterator_opt(scan.options());
        scan::read_rows(&mut rows, &scan.from, visit)?;
        Ok(self.inner.check_scan(&scan, rows.status())?)
    }

    /// Scans rows in one consistent view and in either order, and skips those that `visit` doesn't
    /// need, until it ends the scan or fails: blocks.
    pub fn seek_scan<E: From<StoreError>>(
        &self,
        scan: &Scan,
        order: ScanOrder,
        visit: impl FnMut(&[u8], &[u8]) -> Result<ScanStep, E>,
    ) -> Result<(), E> {
        let options = scan.bidirectional_options();
        let mut rows = self.inner.db.raw_iterator_opt(options);
        scan::read_rows_with_seeks(&mut rows, scan, order, visit)?;
        Ok(self.inner.check_scan(scan, rows.status())?)
    }

    /// Takes a snapshot of all rows as they are now, unaffected by later writes.
    pub fn db_snapshot(&self) -> DbSnapshot<'_> {
        DbSnapshot {
            rows: self.inner.db.snapshot(),
            state: &self.inner,
        }
    }
}
