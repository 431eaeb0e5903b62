//! The Raft logs of all groups, in one RocksDB whose write-ahead log is synced by one group commit.
//!
//! ```text
//! group u16 | 0 | meta kind u8        vote, committed, purged
//! group u16 | 1 | index u64           an entry                  (all numbers big-endian)
//! ```
//!
//! *Written* means: readable by this process, and ordered before everything written later.
//! *Durable* means: it survives a power loss, which holds once the completion was called.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rocksdb::{DB, Options, ReadOptions, WriteBatch};

use super::blocking::{blocking, is_stalling};
use super::error::StoreError;
use super::group_commit::{Completion, GroupCommit, SyncStats};
use super::keys::GroupId;
use super::synced_mark::SyncedMark;

/// A single row that a group keeps beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogMeta {
    /// The last vote.
    Vote = 1,
    /// The last committed position that was noted.
    Committed = 2,
    /// The position up to which the log was purged.
    Purged = 3,
}

impl LogMeta {
    fn subject(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Committed => "committed position",
            Self::Purged => "purged position",
        }
    }
}

/// The log database.
pub struct LogDb {
    db: Arc<DB>,
    commit: GroupCommit,
    appended: AtomicU64,
}

impl LogDb {
    /// Opens the log in `dir`, a folder of the data directory.
    pub(super) fn open(data_dir: &Path, dir: &Path, options: &Options) -> Result<Self, StoreError> {
        let db = Arc::new(DB::open(options, dir).map_err(StoreError::on("open", "log database"))?);
        let (mark, synced) = SyncedMark::open(data_dir)
            .map_err(StoreError::on("open", "mark of the log's last sync"))?;
        if db.latest_sequence_number() < synced {
            return Err(StoreError::corrupt(
                "log database",
                "it is damaged: writes that were on disk are missing from it. Remove the data \
                 directory and let the node join again, under a new number, and replace the old one",
            ));
        }
        let commit = GroupCommit::start(db.clone(), mark)
            .map_err(StoreError::on("start", "log sync thread"))?;
        // What is left from before counts as appended: it is replayed at the next start as well.
        let left = db.property_int_value(c"rocksdb.estimate-live-data-size");
        let appended = AtomicU64::new(left.ok().flatten().unwrap_or(0));
        Ok(Self {
            db,
            commit,
            appended,
        })
    }

    /// Writes entries of consecutive indexes, and `committed` with them if given. They are
    /// written when this returns and durable when `done` is called.
    pub fn append(
        &self,
        group: GroupId,
        entries: impl IntoIterator<Item = (u64, Vec<u8>)>,
        committed: Option<Vec<u8>>,
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (index, entry) in entries {
            batch.put(entry_key(group, index), entry);
        }
        if let Some(committed) = committed {
            batch.put(meta_key(group, LogMeta::Committed), committed);
        }
        let size = batch.size_in_bytes() as u64;
        self.appended.fetch_add(size, Ordering::Relaxed);
        let write = || self.db.write(batch);
        let written = if is_stalling(&self.db) {
            blocking(write)
        } else {
            write()
        };
        written.map_err(StoreError::on("append", "log entries"))?;
        self.commit.enqueue(done);
        Ok(())
    }

    /// Writes a single row. Durable when `done` is called.
    pub fn put_meta(
        &self,
        group: GroupId,
        kind: LogMeta,
        value: &[u8],
        done: Completion,
    ) -> Result<(), StoreError> {
        self.write_meta(group, kind, value)?;
        self.commit.enqueue(done);
        Ok(())
    }

    /// Writes a single row; it is durable with whatever is synced next.
    pub fn write_meta(
        &self,
        group: GroupId,
        kind: LogMeta,
        value: &[u8],
    ) -> Result<(), StoreError> {
        self.db
            .put(meta_key(group, kind), value)
            .map_err(StoreError::on("write", kind.subject()))
    }

    /// Reads a single row.
    pub fn meta(&self, group: GroupId, kind: LogMeta) -> Result<Option<Bytes>, StoreError> {
        let row = self
            .db
            .get_pinned(meta_key(group, kind))
            .map_err(StoreError::on("read", kind.subject()))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    /// Entries from index `from` to `to` (exclusive), at most about `max_bytes` of them, but one at
    /// least if there is any.
    pub fn entries(
        &self,
        group: GroupId,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(entry_key(group, to));
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(entry_key(group, from));
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some((key, value)) = rows.item() {
            if bytes >= max_bytes {
                break;
            }
            bytes += value.len();
            entries.push((index_of(key)?, Bytes::copy_from_slice(value)));
            rows.next();
        }
        rows.status()
            .map_err(StoreError::on("read", "log entries"))?;
        Ok(entries)
    }

    /// The last entry.
    pub fn last(&self, group: GroupId) -> Result<Option<(u64, Bytes)>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(entry_key(group, 0));
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek_for_prev(entry_key(group, u64::MAX));
        let last = match rows.item() {
            Some((key, value)) => Some((index_of(key)?, Bytes::copy_from_slice(value))),
            None => None,
        };
        rows.status()
            .map_err(StoreError::on("read", "last log entry"))?;
        Ok(last)
    }

    /// Removes the entries from `index` on. Durable with whatever is synced next.
    pub fn truncate_from(&self, group: GroupId, index: u64) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_range(entry_key(group, index), entry_key(group, u64::MAX));
        self.db
            .write(batch)
            .map_err(StoreError::on("truncate", "log"))
    }

    /// Removes the entries from `from` to `to` (inclusive) and notes `purged`, in one step.
    pub fn purge(
        &self,
        group: GroupId,
        from: u64,
        to: u64,
        purged: &[u8],
    ) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.delete_range(
            entry_key(group, from),
            entry_key(group, to.saturating_add(1)),
        );
        batch.put(meta_key(group, LogMeta::Purged), purged);
        self.db.write(batch).map_err(StoreError::on("purge", "log"))
    }

    /// Bytes of entries appended, those included that a start found there.
    pub fn appended_bytes(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    /// What the group commit has done.
    pub fn sync_stats(&self) -> &Arc<SyncStats> {
        self.commit.stats()
    }
}

fn meta_key(group: GroupId, kind: LogMeta) -> [u8; 4] {
    let [high, low] = group.0.to_be_bytes();
    [high, low, 0, kind as u8]
}

fn entry_key(group: GroupId, index: u64) -> [u8; 11] {
    let mut key = [0; 11];
    key[..2].copy_from_slice(&group.0.to_be_bytes());
    key[2] = 1;
    key[3..].copy_from_slice(&index.to_be_bytes());
    key
}

fn index_of(key: &[u8]) -> Result<u64, StoreError> {
    let index = key.get(3..).and_then(|index| index.try_into().ok());
    index
        .map(u64::from_be_bytes)
        .ok_or_else(|| StoreError::corrupt("log entry", "its key has another length"))
}
