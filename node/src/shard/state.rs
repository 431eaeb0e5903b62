//! The replicated state of a shard.
//!
//! Invariants:
//! - apply is a function of this state and the command (see `raft::MachineState`);
//! - versions rise strictly within the shard: `max(time of the command, last version + 1)`;
//! - `keys`, `bytes` and `digest` of a bucket are the sums over its records, and the shard's
//!   digest is the sum over its buckets.
//!
//! Changes of a batch accumulate here (`record_cache`, `changed_buckets`, the header) until they
//! are written.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command};
use prost::Message;

use super::merge::MergeOutcome;
use super::record;
use super::record_cache::RecordCache;
use super::view::ShardView;
use super::write::WriteOutcome;
use crate::raft::{MachineState, StateMachine};
use crate::store::keys::{RowKind, Rows};
use crate::store::{CachedRead, RowBatch, StateDb, StoreError, blocking};
use crate::types::{BucketId, Nanos};

/// Highest feature level of shards that this version supports.
pub(crate) const MAX_FEATURE_LEVEL: u32 = 4;

/// Maximum number of buckets whose state is cached from one batch to the next.
const MAX_CACHED_BUCKETS: usize = 256;

/// The shard state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard;

impl StateMachine for Shard {
    type Command = pb::ShardCommand;
    type CommandResult = ShardResponse;
    type State = ShardState;
    // Users' reads of a shard need a majority of its region, which knows what is committed.
    const COMMITS_ARE_DURABLE: bool = false;
}

/// Result of applying a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardResponse {
    /// Applied; there is nothing to report.
    Done,
    /// Outcome of each write, in their order.
    Writes(Vec<WriteOutcome>),
    /// Outcome of each merge, in their order.
    Merges(Vec<MergeOutcome>),
    /// Outcome of a reconciliation of a removed region's writes.
    Reconciled {
        /// True if they were applied: the removed region is fenced here.
        is_applied: bool,
    },
    /// Outcome of an expiry run.
    Expired {
        /// True if more keys have expired than the command's limit: propose it again at once.
        has_more: bool,
    },
}

/// State of a shard on this node.
pub struct ShardState {
    pub(super) db: StateDb,
    pub(super) rows: Rows,
    pub(super) header: pb::ShardHeader,
    /// Records changed since the last batch was written, and recently changed ones.
    pub(super) record_cache: RecordCache,
    /// Buckets changed since the last batch was written.
    pub(super) changed_buckets: HashMap<Bytes, pb::BucketState>,
    /// Cache of buckets changed before, equal to their rows.
    bucket_cache: HashMap<Bytes, pb::BucketState>,
    pub(super) view: Arc<ShardView>,
}

impl ShardState {
    /// Opens the state in `rows`, with a record cache of `record_cache_bytes`.
    pub fn open(db: StateDb, rows: Rows, record_cache_bytes: usize) -> Result<Self, StoreError> {
        let header = read_header(&db, rows)?;
        let view = Arc::new(ShardView::new(db.clone(), rows, &header));
        Ok(Self {
            db,
            rows,
            header,
            record_cache: RecordCache::new(record_cache_bytes),
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

    fn check_level(&self, level: u32) -> io::Result<()> {
        if level > MAX_FEATURE_LEVEL {
            return Err(unsupported_error(format!(
                "feature level {level} (this one knows up to {MAX_FEATURE_LEVEL})"
            )));
        }
        Ok(())
    }

    fn bootstrap(&mut self, bootstrap: &pb::BootstrapShard) -> io::Result<ShardResponse> {
        self.check_level(bootstrap.level)?;
        if self.header.region == 0 {
            self.header.region = bootstrap.region;
            self.header.incarnation = bootstrap.incarnation;
            self.header.level = bootstrap.level;
            self.header.seeding = bootstrap.must_seed;
        }
        Ok(ShardResponse::Done)
    }

    fn set_level(&mut self, set: &pb::SetLevel) -> io::Result<ShardResponse> {
        self.check_level(set.level)?;
        self.header.level = self.header.level.max(set.level);
        Ok(ShardResponse::Done)
    }
}

impl MachineState<Shard> for ShardState {
    fn apply(
        &mut self,
        command: &pb::ShardCommand,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        match &command.kind {
            Some(Command::Writes(writes)) => self.apply_writes(writes, batch),
            Some(Command::Expire(expire)) => self.apply_expire(*expire, batch),
            Some(Command::DropBucket(drop)) => self.apply_drop_bucket(&drop.bucket, batch),
            Some(Command::CountReads(counts)) => self.apply_count_reads(counts),
            Some(Command::Bootstrap(bootstrap)) => self.bootstrap(bootstrap),
            Some(Command::SetLevel(set)) => self.set_level(set),
            Some(Command::SetPeers(set)) => self.apply_set_peers(set, batch),
            Some(Command::Merges(merges)) => self.apply_merges(merges, batch),
            Some(Command::Acknowledge(acknowledge)) => self.apply_acknowledge(acknowledge, batch),
            Some(Command::Collect(collect)) => self.apply_collect(collect, batch),
            Some(Command::Seed(seed)) => self.apply_seed(seed, batch),
            Some(Command::Fence(fence)) => Ok(self.apply_fence(fence)),
            Some(Command::Reconcile(level)) => self.apply_reconcile(level, batch),
            None => Err(unsupported_error("a command of a kind".into())),
        }
    }

    fn is_scan(command: &pb::ShardCommand) -> bool {
        matches!(
            command.kind,
            Some(
                Command::Expire(_)
                    | Command::DropBucket(_)
                    | Command::SetPeers(_)
                    | Command::Acknowledge(_)
                    | Command::Seed(_)
            )
        )
    }

    fn entry_applied(&mut self, index: u64) {
        self.view.checkpoints.record(index, self.header.digest);
    }

    fn finish_batch(&mut self, batch: &mut RowBatch) {
        for (id, bucket) in &self.changed_buckets {
            batch.put(self.rows.by_id(RowKind::Bucket, id), bucket.encode_to_vec());
        }
        batch.put(
            self.rows.single(RowKind::Header),
            self.header.encode_to_vec(),
        );
    }

    fn batch_written(&mut self) {
        self.record_cache.commit_batch();
        if self.bucket_cache.len() + self.changed_buckets.len() > MAX_CACHED_BUCKETS {
            self.bucket_cache.clear();
        }
        let changed = self.changed_buckets.drain();
        self.bucket_cache.extend(changed.take(MAX_CACHED_BUCKETS));
        self.view.publish(&self.header);
    }

    fn empty_response() -> ShardResponse {
        ShardResponse::Done
    }

    fn reload(&mut self, rows: Rows) -> Result<(), StoreError> {
        self.record_cache.clear();
        self.changed_buckets.clear();
        self.bucket_cache.clear();
        self.header = read_header(&self.db, rows)?;
        self.rows = rows;
        self.view.reload(rows, &self.header);
        Ok(())
    }
}

fn unsupported_error(item: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("the log holds {item} that this version of cloudkv-node does not know: upgrade it"),
    )
}

fn read_header(db: &StateDb, rows: Rows) -> Result<pb::ShardHeader, StoreError> {
    match db.get(&rows.single(RowKind::Header))? {
        Some(row) => pb::ShardHeader::decode(row).map_err(StoreError::on("decode", "shard header")),
        None => Ok(pb::ShardHeader::default()),
    }
}

/// Decodes a bucket's state from its row.
pub(super) fn decode_bucket(row: Bytes) -> Result<pb::BucketState, StoreError> {
    pb::BucketState::decode(row).map_err(StoreError::on("decode", "bucket state"))
}

/// Returns whether a bucket's name has the length that row keys require.
pub(super) fn is_bucket_name(name: &[u8]) -> bool {
    name.len() == BucketId::LEN
}
