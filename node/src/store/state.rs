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

impl Inner {
    /// A read of a row, or one that began there, has failed. If it has met damage, nothing is
    /// compacted any more: see `rebuild`.
    fn failed_read(&self, row: &[u8], error: rocksdb::Error) -> StoreError {
        if self.damage.note(row, &error)
            && let Err(error) = self.keep_files(&error)
        {
            // A compaction that meets the damage ends all writes, and with them the node.
            tracing::error!(%error, "compactions of a damaged state not stopped");
        }
        StoreError::on("read", "state row")(error)
    }

    /// A write has failed: a compaction may have met damage, after which RocksDB takes none. The
    /// next start finds out whose it is.
    fn failed_write(&self, verb: &'static str, error: rocksdb::Error) -> StoreError {
        if error.kind() == rocksdb::ErrorKind::Corruption
            && !self.dirs.is_marked()
            && let Err(error) = self.keep_files(&error)
        {
            tracing::error!(%error, "damaged state not marked");
        }
        StoreError::on(verb, "state batch")(error)
    }

    fn keep_files(&self, why: &rocksdb::Error) -> Result<(), StoreError> {
        self.dirs
            .set_mark(why.as_ref())
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

/// Rows as they were at one moment: several reads that belong together.
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

    /// Walks over rows until `visit` breaks: blocks.
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
            removing: Mutex::new(()),
            damage: Damage::default(),
            dirs: StateDirs::new(data_dir),
            cache: Mutex::new(cache.clone()),
            cache_bytes,
            db,
            no_wal,
            cached: tier(ReadTier::BlockCache),
            persisted: tier(ReadTier::Persisted),
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

    /// Held while rows are removed for good: one removal at a time.
    pub(super) fn removing(&self) -> &Mutex<()> {
        &self.inner.removing
    }

    /// Reads a row from memory, if memory can tell.
    pub fn get_cached(&self, key: &[u8]) -> Result<Found, StoreError> {
        match self.inner.db.get_pinned_opt(key, &self.inner.cached) {
            Ok(Some(row)) => Ok(Found::Row(Bytes::copy_from_slice(&row))),
            Ok(None) => Ok(Found::Nothing),
            Err(error) if error.kind() == rocksdb::ErrorKind::Incomplete => Ok(Found::NotCached),
            Err(error) => Err(self.inner.failed_read(key, error)),
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
        let row = row.map_err(|error| self.inner.failed_read(key, error))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Damage that reads have met of a group's rows, now and later.
    pub fn damage_of(&self, group: GroupId) -> Arc<GroupDamage> {
        self.inner.damage.of(group)
    }

    /// Whether reads have met damage of any group's rows, now and later.
    pub fn any_damage(&self) -> watch::Receiver<bool> {
        self.inner.damage.any()
    }

    /// Held while all rows of a group are read: one group at a time.
    pub async fn check_turn(&self) -> OwnedMutexGuard<()> {
        self.inner.damage.checking().lock_owned().await
    }

    /// Forgets blocks in memory, so that reads meet the disk.
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
        walk(&self.inner, rows, &scan.from, visit)
    }

    /// All rows as they are now, whatever is written while they are read.
    pub fn frozen(&self) -> Frozen<'_> {
        Frozen {
            rows: self.inner.db.snapshot(),
            state: &self.inner,
        }
    }
}
