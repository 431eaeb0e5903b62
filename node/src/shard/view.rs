//! Reads of a shard, on any thread, without a lock.
//!
//! Invariant: a reader sees only whole batches written before the read began, and nothing of a
//! generation that was replaced: each read checks afterwards that its generation is still the
//! current one, and starts over if not.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use tokio::sync::watch;

use super::listed_record::decode_without_value;
use super::peers::ReplicationView;
use super::recent_changes::RecentChanges;
use super::record;
use super::rows::decode_bucket;
use crate::store::keys::{self, GroupId, RowKind, Rows};
use crate::store::{CachedRead, Scan, StateDb, StoreError};
use crate::types::{BucketId, Nanos, ReadResult};

/// Read access to a shard.
pub struct ShardView {
    pub(super) db: StateDb,
    group: GroupId,
    generation: AtomicU32,
    /// Number of the region that the shard belongs to; 0 until it is bootstrapped.
    region: AtomicU32,
    /// Incarnation of that region; 0 until the shard is bootstrapped.
    incarnation: AtomicU64,
    /// Feature level of the shard.
    level: AtomicU32,
    /// True if it serves: bootstrapped, and not being seeded.
    is_open: AtomicBool,
    replication: watch::Sender<Arc<ReplicationView>>,
    last_version: AtomicU64,
    digest: AtomicU64,
    recent_changes: RecentChanges,
    /// Lower bound of the earliest expiry of any key: it may be too early, never too late.
    next_expiry: AtomicU64,
}

/// Result of a read that doesn't wait for the disk.
pub enum Lookup {
    /// Read from memory.
    Cached(ReadResult),
    /// Not in memory: use [`ShardView::get`].
    NotCached,
}

impl ShardView {
    pub(super) fn new(
        db: StateDb,
        rows: Rows,
        header: &pb::ShardHeader,
        recent_changes: RecentChanges,
    ) -> Self {
        let view = Self {
            db,
            group: rows.group(),
            generation: AtomicU32::new(rows.generation()),
            region: AtomicU32::new(0),
            incarnation: AtomicU64::new(0),
            level: AtomicU32::new(0),
            is_open: AtomicBool::new(false),
            replication: watch::channel(Arc::default()).0,
            last_version: AtomicU64::new(0),
            digest: AtomicU64::new(0),
            recent_changes,
            next_expiry: AtomicU64::new(header.expiry_low),
        };
        view.publish(header);
        view
    }

    pub(super) fn publish(&self, header: &pb::ShardHeader) {
        self.last_version
            .store(header.last_version, Ordering::Release);
        self.digest.store(header.digest, Ordering::Release);
        self.region.store(header.region, Ordering::Release);
        self.incarnation
            .store(header.incarnation, Ordering::Release);
        self.level.store(header.level, Ordering::Release);
        let open = header.region != 0 && !header.seeding;
        self.is_open.store(open, Ordering::Release);
        self.publish_replication(header);
    }

    /// Skipped while there are no other regions: it costs a copy of the header with every batch.
    fn publish_replication(&self, header: &pb::ShardHeader) {
        let is_single_region = header.peers.is_empty() && !header.seeding;
        if !is_single_region || !self.replication.borrow().header.peers.is_empty() {
            let header = header.clone();
            self.replication
                .send_replace(Arc::new(ReplicationView { header }));
        }
    }

    /// Subscribes to the shard's replication state. It isn't updated while there are no other
    /// regions.
    pub fn replication(&self) -> watch::Receiver<Arc<ReplicationView>> {
        self.replication.subscribe()
    }

    /// Returns whether the shard serves: bootstrapped, and not being seeded.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Returns the time of the newest version that was applied.
    pub fn last_version(&self) -> Nanos {
        self.last_version.load(Ordering::Acquire)
    }

    /// Shows readers another state, that of `rows` after the entry of index `applied`.
    pub(super) fn reload(&self, rows: Rows, header: &pb::ShardHeader, applied: u64) {
        self.generation.store(rows.generation(), Ordering::Release);
        self.next_expiry.store(header.expiry_low, Ordering::Release);
        self.publish(header);
        self.recent_changes.restart(applied);
    }

    pub(super) fn lower_next_expiry(&self, at: Nanos) {
        self.next_expiry.fetch_min(at, Ordering::AcqRel);
    }

    pub(super) fn set_next_expiry(&self, next: Option<Nanos>) {
        self.next_expiry
            .store(next.unwrap_or(Nanos::MAX), Ordering::Release);
    }

    /// Returns whether the shard knows its region: before that it accepts no writes.
    pub fn is_bootstrapped(&self) -> bool {
        self.region() != 0
    }

    /// Returns the number of the shard's region; 0 until it is bootstrapped.
    pub fn region(&self) -> u32 {
        self.region.load(Ordering::Acquire)
    }

    /// Returns the incarnation of the shard's region; 0 until it is bootstrapped.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Acquire)
    }

    /// Returns the feature level of the shard: its log may have what that level allows.
    pub fn level(&self) -> u32 {
        self.level.load(Ordering::Acquire)
    }

    /// Returns the order-free sum over all records: equal on all replicas at the same applied
    /// index.
    pub fn digest(&self) -> u64 {
        self.digest.load(Ordering::Acquire)
    }

    /// Returns the recent changes of this replica.
    pub fn recent_changes(&self) -> &RecentChanges {
        &self.recent_changes
    }

    /// Returns whether a key may have expired by `now` and still be counted.
    pub fn has_expired_keys(&self, now: Nanos) -> bool {
        self.next_expiry.load(Ordering::Acquire) <= now
    }

    /// Returns the time that expiry is compared with: the later of the clock and the last version.
    pub(super) fn read_time(&self, now: Nanos) -> Nanos {
        now.max(self.last_version.load(Ordering::Acquire))
    }

    pub(super) fn rows(&self) -> Rows {
        Rows::new(self.group, self.generation.load(Ordering::Acquire))
    }

    /// Runs `read` on the current rows, and again if they were replaced meanwhile.
    pub(super) fn read_consistent<T>(
        &self,
        mut read: impl FnMut(Rows) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let rows = self.rows();
            let result = read(rows);
            if self.rows() == rows {
                return result;
            }
        }
    }

    fn decode_row(&self, row: Bytes, now: Nanos) -> Result<ReadResult, StoreError> {
        let record = record::decode(row)?;
        Ok(if record::is_live(&record, self.read_time(now)) {
            ReadResult::Live(record::into_entry(record))
        } else {
            ReadResult::Deleted(record::version_of(&record))
        })
    }

    /// Reads a key at `now` from memory only.
    pub fn get_cached(&self, bucket: &[u8], key: &[u8], now: Nanos) -> Result<Lookup, StoreError> {
        let cached = self.read_consistent(|rows| self.db.get_cached(&rows.record(bucket, key)))?;
        match cached {
            CachedRead::Row(row) => Ok(Lookup::Cached(self.decode_row(row, now)?)),
            CachedRead::Absent => Ok(Lookup::Cached(ReadResult::Missing)),
            CachedRead::NotCached => Ok(Lookup::NotCached),
        }
    }

    /// Reads a key at `now`: blocks for the disk.
    pub fn get(&self, bucket: &[u8], key: &[u8], now: Nanos) -> Result<ReadResult, StoreError> {
        let row = self.read_consistent(|rows| self.db.get(&rows.record(bucket, key)))?;
        row.map_or(Ok(ReadResult::Missing), |row| self.decode_row(row, now))
    }

    /// Reads a bucket's state from memory only; `None` if it isn't there.
    pub fn bucket_cached(&self, bucket: &[u8]) -> Result<Option<pb::BucketState>, StoreError> {
        let cached =
            self.read_consistent(|rows| self.db.get_cached(&rows.by_id(RowKind::Bucket, bucket)))?;
        match cached {
            CachedRead::Row(row) => decode_bucket(row).map(Some),
            CachedRead::Absent => Ok(Some(pb::BucketState::default())),
            CachedRead::NotCached => Ok(None),
        }
    }

    /// Returns whether a bucket holds a live key or value larger than these sizes: scans all of it,
    /// and blocks for the disk.
    pub fn has_larger_than(
        &self,
        bucket: &[u8],
        key_bytes: usize,
        value_bytes: usize,
        now: Nanos,
    ) -> Result<bool, StoreError> {
        let from = self.rows().record(bucket, b"");
        let to = keys::prefix_end(&from);
        let scan = Scan {
            from,
            to,
            fill_cache: false,
        };
        let mut has_larger = false;
        self.db.try_scan(scan, |row, record| {
            let Some((_, key)) = keys::split_record(row) else {
                return Err(StoreError::corrupt("record", "its row key is too short"));
            };
            let (record, value) = decode_without_value(record)?;
            let is_larger = key.len() > key_bytes || value.len() > value_bytes;
            has_larger = is_larger && record::is_live(&record, now);
            Ok::<_, StoreError>(if has_larger {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(has_larger)
    }

    /// Reads a bucket's state: blocks for the disk.
    pub fn bucket(&self, bucket: &[u8]) -> Result<pb::BucketState, StoreError> {
        let row = self.read_consistent(|rows| self.db.get(&rows.by_id(RowKind::Bucket, bucket)))?;
        Ok(row.map(decode_bucket).transpose()?.unwrap_or_default())
    }

    /// Deletes the files that hold nothing but records of buckets whose drop was applied. Flushes,
    /// and blocks for that.
    pub fn reclaim(&self, buckets: &[BucketId]) -> Result<(), StoreError> {
        let rows = self.rows();
        let range = |bucket: &BucketId| {
            let from = rows.record(bucket.as_bytes(), b"");
            let to = keys::prefix_end(&from);
            (from, to)
        };
        let ranges: Vec<_> = buckets.iter().map(range).collect();
        self.db.remove_ranges(&ranges)
    }
}
