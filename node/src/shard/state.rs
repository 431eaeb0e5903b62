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
use super::recent::Recent;
use super::record;
use super::view::View;
use super::write::WriteOutcome;
use crate::raft::{Machine, State};
use crate::store::keys::{Kind, Rows};
use crate::store::{Batch, Found, StateDb, StoreError, blocking};
use crate::types::{BucketId, Nanos};

/// Highest feature level of shards that this version supports.
pub const LEVEL: u32 = 4;

/// Maximum number of buckets whose state is cached from one batch to the next.
const KNOWN_BUCKETS: usize = 256;

/// The shard state machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shard;

impl Machine for Shard {
    type Command = pb::ShardCommand;
    type Response = Response;
    type State = ShardState;
    // Users' reads of a shard need a majority of its region, which knows what is committed.
    const COMMITS_ARE_DURABLE: bool = false;
}

/// Result of applying a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Applied; there is nothing to report.
    Done,
    /// Outcome of each write, in their order.
    Writes(Vec<WriteOutcome>),
    /// Outcome of each merge, in their order.
    Merges(Vec<MergeOutcome>),
    /// Outcome of a reconciliation of a removed region's writes.
    Levelled {
        /// True if they were applied: the removed region is fenced here.
        taken: bool,
    },
    /// Outcome of an expiry run.
    Expired {
        /// True if more keys have expired than the command's limit: propose it again at once.
        more: bool,
    },
}

/// State of a shard on this node.
pub struct ShardState {
    pub(super) db: StateDb,
    pub(super) rows: Rows,
    pub(super) header: pb::ShardHeader,
    /// Records changed since the last batch was written, and recently changed ones.
    pub(super) recent: Recent,
    /// Buckets changed since the last batch was written.
    pub(super) buckets: HashMap<Bytes, pb::BucketState>,
    /// Cache of buckets changed before, equal to their rows.
    known: HashMap<Bytes, pb::BucketState>,
    pub(super) view: Arc<View>,
}

impl ShardState {
    /// Opens the state in `rows`, with a record cache of `record_cache_bytes`.
    pub fn open(db: StateDb, rows: Rows, record_cache_bytes: usize) -> Result<Self, StoreError> {
        let header = read_header(&db, rows)?;
        let view = Arc::new(View::new(db.clone(), rows, &header));
        Ok(Self {
            db,
            rows,
            header,
            recent: Recent::new(record_cache_bytes),
            buckets: HashMap::new(),
            known: HashMap::new(),
            view,
        })
    }

    /// Returns the view that readers use.
    pub fn view(&self) -> Arc<View> {
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
        let bytes = match self.recent.get(row) {
            Some(known) => known,
            None => match self.db.get_cached(row)? {
                Found::Row(bytes) => Some(bytes),
                Found::Nothing => None,
                Found::NotCached => blocking(|| self.db.get(row))?,
            },
        };
        bytes.map(record::decode).transpose()
    }

    /// Returns a bucket's state as of the last applied write, to be changed.
    pub(super) fn bucket(&mut self, id: &Bytes) -> Result<&mut pb::BucketState, StoreError> {
        if !self.buckets.contains_key(id) {
            let (id, state) = match self.known.remove_entry(id) {
                Some(known) => known,
                // Copied, since it is retained: `id` may be a slice of a whole request.
                None => (Bytes::copy_from_slice(id), self.stored_bucket(id)?),
            };
            self.buckets.insert(id, state);
        }
        Ok(self.buckets.entry(id.clone()).or_default())
    }

    fn stored_bucket(&self, id: &[u8]) -> Result<pb::BucketState, StoreError> {
        let row = self.rows.by_id(Kind::Bucket, id);
        let state = match self.db.get_cached(&row)? {
            Found::Row(bytes) => Some(bytes),
            Found::Nothing => None,
            Found::NotCached => blocking(|| self.db.get(&row))?,
        };
        Ok(state.map(decode_bucket).transpose()?.unwrap_or_default())
    }

    fn check_level(&self, level: u32) -> io::Result<()> {
        if level > LEVEL {
            return Err(newer(format!(
                "feature level {level} (this one knows up to {LEVEL})"
            )));
        }
        Ok(())
    }

    fn found(&mut self, bootstrap: &pb::Found) -> io::Result<Response> {
        self.check_level(bootstrap.level)?;
        if self.header.region == 0 {
            self.header.region = bootstrap.region;
            self.header.incarnation = bootstrap.incarnation;
            self.header.level = bootstrap.level;
            self.header.adopting = bootstrap.adopts;
        }
        Ok(Response::Done)
    }

    fn set_level(&mut self, set: &pb::SetLevel) -> io::Result<Response> {
        self.check_level(set.level)?;
        self.header.level = self.header.level.max(set.level);
        Ok(Response::Done)
    }
}

impl State<Shard> for ShardState {
    fn apply(&mut self, command: &pb::ShardCommand, batch: &mut Batch) -> io::Result<Response> {
        match &command.kind {
            Some(Command::Writes(writes)) => self.apply_writes(writes, batch),
            Some(Command::Expire(expire)) => self.apply_expire(*expire, batch),
            Some(Command::DropBucket(drop)) => self.apply_drop_bucket(&drop.bucket, batch),
            Some(Command::CountReads(counts)) => self.apply_count_reads(counts),
            Some(Command::Found(bootstrap)) => self.found(bootstrap),
            Some(Command::SetLevel(set)) => self.set_level(set),
            Some(Command::SetPeers(set)) => self.apply_set_peers(set, batch),
            Some(Command::Merges(merges)) => self.apply_merges(merges, batch),
            Some(Command::Acknowledge(acknowledge)) => self.apply_acknowledge(acknowledge, batch),
            Some(Command::Collect(collect)) => self.apply_collect(collect, batch),
            Some(Command::Adopt(seed)) => self.apply_adopt(seed, batch),
            Some(Command::Fence(fence)) => Ok(self.apply_fence(fence)),
            Some(Command::Level(level)) => self.apply_level(level, batch),
            None => Err(newer("a command of a kind".into())),
        }
    }

    fn walks(command: &pb::ShardCommand) -> bool {
        matches!(
            command.kind,
            Some(
                Command::Expire(_)
                    | Command::DropBucket(_)
                    | Command::SetPeers(_)
                    | Command::Acknowledge(_)
                    | Command::Adopt(_)
            )
        )
    }

    fn passed(&mut self, index: u64) {
        self.view.checkpoints.pass(index, self.header.digest);
    }

    fn seal(&mut self, batch: &mut Batch) {
        for (id, bucket) in &self.buckets {
            batch.put(self.rows.by_id(Kind::Bucket, id), bucket.encode_to_vec());
        }
        batch.put(self.rows.single(Kind::Header), self.header.encode_to_vec());
    }

    fn written(&mut self) {
        self.recent.written();
        if self.known.len() + self.buckets.len() > KNOWN_BUCKETS {
            self.known.clear();
        }
        let changed = self.buckets.drain();
        self.known.extend(changed.take(KNOWN_BUCKETS));
        self.view.publish(&self.header);
    }

    fn no_response() -> Response {
        Response::Done
    }

    fn reload(&mut self, rows: Rows) -> Result<(), StoreError> {
        self.recent.clear();
        self.buckets.clear();
        self.known.clear();
        self.header = read_header(&self.db, rows)?;
        self.rows = rows;
        self.view.reload(rows, &self.header);
        Ok(())
    }
}

fn newer(item: String) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("the log holds {item} that this version of cloudkv-node does not know: upgrade it"),
    )
}

fn read_header(db: &StateDb, rows: Rows) -> Result<pb::ShardHeader, StoreError> {
    match db.get(&rows.single(Kind::Header))? {
        Some(row) => pb::ShardHeader::decode(row).map_err(StoreError::on("decode", "shard header")),
        None => Ok(pb::ShardHeader::default()),
    }
}

/// Decodes a bucket's state from its row.
pub fn decode_bucket(row: Bytes) -> Result<pb::BucketState, StoreError> {
    pb::BucketState::decode(row).map_err(StoreError::on("decode", "bucket state"))
}

/// Returns whether a bucket's name has the length that row keys require.
pub(super) fn is_bucket_name(name: &[u8]) -> bool {
    name.len() == BucketId::LEN
}
