//! The replicated state of a shard: its header, buckets and records.
//!
//! Invariants:
//! - versions rise strictly within the shard: `max(time of the command, last version + 1)`;
//! - `keys`, `bytes` and `digest` of a bucket are the sums over its records, and the shard's
//!   digest is the sum over its buckets.
//!
//! Changes of a batch accumulate here (`record_cache`, `changed_buckets`, `pending_changes`, the
//! header) until they are written.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;

use super::change_memory::ChangeLimits;
use super::pending_changes::PendingChanges;
use super::recent_changes::RecentChanges;
use super::record;
use super::record_cache::RecordCache;
use super::rows::{decode_bucket, read_header};
use super::view::ShardView;
use crate::raft::applied_index;
use crate::store::keys::{RowKind, Rows};
use crate::store::{CachedRead, RowBatch, StateDb, StoreError, blocking};
use crate::types::Nanos;

/// Maximum number of buckets whose state is cached from one batch to the next.
const MAX_CACHED_BUCKETS: usize = 256;

/// Bounds of the memory that a shard's state takes on this node, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct StateMemory {
    /// Cache of recently changed records.
    pub record_cache: usize,
    /// Recent changes; 0: none are recorded.
    pub recent_changes: usize,
    /// Recent changes that pins may add.
    pub pinned_changes: usize,
}

/// State of a shard on this node.
pub struct ShardState {
    pub(super) db: StateDb,
    pub(super) rows: Rows,
    pub(super) header: pb::ShardHeader,
    /// Records changed since the last batch was written, and recently changed ones.
    pub(super) record_cache: RecordCache,
    /// No row of the expiry index lies before this one, if it is known: rows of one time may be
    /// many, and the header has only their time. It isn't replicated, and changes no result.
    pub(super) expiry_from: Option<Vec<u8>>,
    /// Visible changes since the last batch was written. They aren't replicated, and change no
    /// result.
    pub(super) pending_changes: PendingChanges,
    /// Buckets changed since the last batch was written.
    changed_buckets: HashMap<Bytes, pb::BucketState>,
    /// Cache of buckets changed before, equal to their rows.
    bucket_cache: HashMap<Bytes, pb::BucketState>,
    pub(super) view: Arc<ShardView>,
}

impl ShardState {
    /// Opens the state in `rows`.
    pub fn open(db: StateDb, rows: Rows, memory: StateMemory) -> Result<Self, StoreError> {
        let (header, applied) = read_position(&db, rows)?;
        let limits = ChangeLimits {
            max_bytes: memory.recent_changes,
            max_pinned_bytes: memory.pinned_changes,
        };
        let recent_changes = RecentChanges::new(limits, applied);
        let view = Arc::new(ShardView::new(db.clone(), rows, &header, recent_changes));
        Ok(Self {
            db,
            rows,
            header,
            record_cache: RecordCache::new(memory.record_cache),
            expiry_from: None,
            pending_changes: PendingChanges::new(limits.total()),
            changed_buckets: HashMap::new(),
            bucket_cache: HashMap::new(),
            view,
        })
    }

    /// Returns the view that readers use.
    pub fn view(&self) -> Arc<ShardView> {
        self.view.clone()
    }

    /// Returns the time of the next version, and advances the last version to it.
    pub(super) fn next_version(&mut self, time: Nanos) -> Nanos {
        let version = time.max(self.header.last_version + 1);
        self.header.last_version = version;
        version
    }

    /// Reads a record as of the last applied write, tombstones included.
    pub(super) fn record(&self, row: &[u8]) -> Result<Option<pb::Record>, StoreError> {
        let bytes = match self.record_cache.get(row) {
            Some(known) => known,
            None => match self.db.get_cached(row)? {
                CachedRead::Row(bytes) => Some(bytes),
                CachedRead::Absent => None,
                CachedRead::NotCached => blocking(|| self.db.get(row))?,
            },
        };
        bytes.map(record::decode).transpose()
    }

    /// Returns a bucket's state as of the last applied write, to be changed.
    pub(super) fn bucket(&mut self, id: &Bytes) -> Result<&mut pb::BucketState, StoreError> {
        if !self.changed_buckets.contains_key(id) {
            let (id, state) = match self.bucket_cache.remove_entry(id) {
                Some(known) => known,
                // Copied, since it is retained: `id` may be a slice of a whole request.
                None => (Bytes::copy_from_slice(id), self.stored_bucket(id)?),
            };
            self.changed_buckets.insert(id, state);
        }
        Ok(self.changed_buckets.entry(id.clone()).or_default())
    }

    fn stored_bucket(&self, id: &[u8]) -> Result<pb::BucketState, StoreError> {
        let row = self.rows.by_id(RowKind::Bucket, id);
        let state = match self.db.get_cached(&row)? {
            CachedRead::Row(bytes) => Some(bytes),
            CachedRead::Absent => None,
            CachedRead::NotCached => blocking(|| self.db.get(&row))?,
        };
        Ok(state.map(decode_bucket).transpose()?.unwrap_or_default())
    }

    /// Puts the header and the buckets that the entries of a batch have changed.
    pub(super) fn put_changes(&self, batch: &mut RowBatch) {
        for (id, bucket) in &self.changed_buckets {
            batch.put(self.rows.by_id(RowKind::Bucket, id), bucket.encode_to_vec());
        }
        batch.put(
            self.rows.single(RowKind::Header),
            self.header.encode_to_vec(),
        );
    }

    /// Shows readers the changes of the batch that was just written.
    pub(super) fn publish(&mut self) {
        self.record_cache.commit_batch();
        if self.bucket_cache.len() + self.changed_buckets.len() > MAX_CACHED_BUCKETS {
            self.bucket_cache.clear();
        }
        let changed = self.changed_buckets.drain();
        self.bucket_cache.extend(changed.take(MAX_CACHED_BUCKETS));
        self.view.publish(&self.header);
        let recent_changes = self.view.recent_changes();
        recent_changes.publish(&mut self.pending_changes);
    }

    /// Drops the state, and reads it again from `rows`.
    pub(super) fn load_rows(&mut self, rows: Rows) -> Result<(), StoreError> {
        self.record_cache.clear();
        self.expiry_from = None;
        self.pending_changes.clear();
        self.changed_buckets.clear();
        self.bucket_cache.clear();
        let (header, applied) = read_position(&self.db, rows)?;
        self.header = header;
        self.rows = rows;
        self.view.reload(rows, &self.header, applied);
        Ok(())
    }
}

/// Reads the header and the index of the last applied entry, in one view: blocks.
fn read_position(db: &StateDb, rows: Rows) -> Result<(pb::ShardHeader, u64), StoreError> {
    let db = db.db_snapshot();
    Ok((read_header(&db, rows)?, applied_index(&db, rows)?))
}

impl StateMemory {
    /// Bounds of a shard whose node doesn't run: nobody follows its changes.
    pub const OFFLINE: Self = Self {
        record_cache: 8 << 20,
        recent_changes: 0,
        pinned_changes: 0,
    };
}

#[cfg(test)]
impl StateMemory {
    /// Bounds that no test reaches unless it sets its own.
    pub const TEST: Self = Self {
        record_cache: 1 << 20,
        recent_changes: 1 << 20,
        pinned_changes: 1 << 20,
    };
}
