//! Operations on keys: gets, puts, deletes and lists them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, condition::Kind as Condition, write::Op};

use super::errors::{KeyError, Unavailable};
use super::listing;
use super::operation::ShardError;
use super::reads::{GetKey, SessionGet, SessionRead};
use super::session;
use super::session::SessionToken;
use super::shards::{Shards, no_leader};
use super::writes::{WriteKey, WriteResult};
use crate::meta::Bucket;
use crate::types::{BucketId, KeyInfo, ListQuery, Precondition, Put, ReadResult, WriteReceipt};

/// Maximum size of a value that is copied out of the buffer that it was read into, in bytes.
const MAX_COPIED_VALUE_BYTES: usize = 64 << 10;

/// Keys of all buckets. Cheap to clone.
#[derive(Clone)]
pub struct Keyspace {
    shards: Shards,
    timeout: Duration,
    session_timeout: Duration,
}

impl Keyspace {
    /// Creates the keyspace over `shards`. A write's outcome is waited for for up to `timeout`, and
    /// what a client has seen in other regions for up to `session_timeout`.
    pub fn new(shards: Shards, timeout: Duration, session_timeout: Duration) -> Self {
        Self {
            shards,
            timeout,
            session_timeout,
        }
    }

    /// Returns the shards.
    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Reads a key. Completes at once if this node leads the shard and has the record in memory.
    pub async fn get(&self, bucket: &Bucket, key: &[u8]) -> Result<ReadResult, KeyError> {
        let shard = self.shards.shard_of(&bucket.id, key);
        let bucket = bucket.id.as_bytes();
        self.shards.run(shard, &GetKey { bucket, key }).await
    }

    /// Reads a key once the shard has all that the client has seen. Fails with
    /// [`Unavailable::Behind`] if it doesn't within the session timeout.
    pub async fn get_in_session(
        &self,
        bucket: &Bucket,
        key: &[u8],
        session: &SessionToken,
    ) -> Result<ReadResult, KeyError> {
        let shard = self.shards.shard_of(&bucket.id, key);
        let seen = session.seen_of_shard(shard);
        let bucket = bucket.id.as_bytes();
        let get = GetKey { bucket, key };
        if seen.is_empty() {
            return self.shards.run(shard, &get).await;
        }
        let deadline = Instant::now() + self.session_timeout;
        let get = SessionGet { get, seen };
        loop {
            match self.shards.run(shard, &get).await? {
                SessionRead::Read(result) => return Ok(result),
                SessionRead::Behind if Instant::now() < deadline => {}
                SessionRead::Behind => return Err(Unavailable::Behind.into()),
            }
        }
    }

    /// Returns the number of a key's shard.
    pub fn shard_of(&self, bucket: &Bucket, key: &[u8]) -> u16 {
        self.shards.shard_of(&bucket.id, key)
    }

    /// Reads a key from this node's replica, which may lag. Reads at the leader if there is no
    /// replica here, or it has yet to catch up since this node started.
    pub async fn get_eventual(
        &self,
        bucket: &Bucket,
        key: &[u8],
        session: &SessionToken,
    ) -> Result<ReadResult, KeyError> {
        let number = self.shards.shard_of(&bucket.id, key);
        let replica = self
            .shards
            .local(number)
            .filter(|shard| shard.has_fresh_replica());
        let Some(shard) = replica else {
            return self.get_in_session(bucket, key, session).await;
        };
        let seen = session.seen_of_shard(number);
        if !session::wait_until_caught_up(shard, &seen, self.session_timeout).await {
            return Err(Unavailable::Behind.into());
        }
        match shard.get_eventual(bucket.id.as_bytes(), key).await {
            Ok(result) => Ok(result),
            Err(error) => match ShardError::from(error) {
                // The leader has another copy.
                ShardError::Damaged(_) => self.get_in_session(bucket, key, session).await,
                ShardError::NotLeader => Err(no_leader(number)),
                ShardError::Failed(error) => Err(error),
            },
        }
    }

    /// Writes a key. The value is on disk at a majority of its replicas when this returns.
    pub async fn put(
        &self,
        bucket: &Arc<Bucket>,
        key: Bytes,
        put: Put,
    ) -> Result<WriteReceipt, KeyError> {
        let packed = PackedWrite::new(bucket, &key, &put.content_type, &put.value);
        let op = Op::Put(pb::Put {
            value: packed.value.clone(),
            content_type: packed.content_type.clone(),
            ttl: put.ttl.map_or(0, to_nanos),
            may_create: false,
        });
        match self.write(bucket, packed, op, &put.precondition).await? {
            WriteResult::Done(written) => Ok(written),
            WriteResult::ConditionFailed => Err(KeyError::PreconditionFailed),
            WriteResult::BucketDeleted => Err(KeyError::BucketDeleted),
            WriteResult::TooManyKeys(limit) => Err(KeyError::TooManyKeys { limit }),
            WriteResult::TooManyBytes(limit) => Err(KeyError::TooManyBytes { limit }),
            WriteResult::DiskFull(shortage) => Err(KeyError::DiskFull(shortage)),
        }
    }

    /// Deletes a key.
    pub async fn delete(
        &self,
        bucket: &Arc<Bucket>,
        key: Bytes,
        precondition: Precondition,
    ) -> Result<WriteReceipt, KeyError> {
        let packed = PackedWrite::new(bucket, &key, b"", &Bytes::new());
        let op = Op::Delete(pb::Delete {});
        match self.write(bucket, packed, op, &precondition).await? {
            WriteResult::Done(written) => Ok(written),
            WriteResult::ConditionFailed => Err(KeyError::PreconditionFailed),
            WriteResult::BucketDeleted => Err(KeyError::BucketDeleted),
            // A delete adds nothing.
            WriteResult::TooManyKeys(_) | WriteResult::TooManyBytes(_) => {
                Err(KeyError::UnknownOutcome)
            }
            WriteResult::DiskFull(shortage) => Err(KeyError::DiskFull(shortage)),
        }
    }

    async fn write(
        &self,
        bucket: &Arc<Bucket>,
        packed: PackedWrite,
        op: Op,
        precondition: &Precondition,
    ) -> Result<WriteResult, KeyError> {
        let shard = self.shards.shard_of(&packed.id, &packed.key);
        let write = pb::Write {
            bucket: packed.bucket,
            key: packed.key,
            condition: condition_to_pb(precondition),
            op: Some(op),
        };
        let write = WriteKey {
            shards: &self.shards,
            bucket,
            write,
            timeout: self.timeout,
        };
        self.shards.run(shard, &write).await
    }

    /// Lists the live keys of a bucket over all shards, in ascending order of their bytes.
    pub async fn list(&self, bucket: &Bucket, query: ListQuery) -> Result<Vec<KeyInfo>, KeyError> {
        listing::list(&self.shards, bucket, query).await
    }
}

/// Fields of a write, in one allocation of their size.
///
/// They arrive as slices of the buffer that their request was read into. Kept as such, in the queue
/// and in the log's cache, each would keep all of that buffer.
struct PackedWrite {
    id: BucketId,
    bucket: Bytes,
    key: Bytes,
    content_type: Bytes,
    value: Bytes,
}

impl PackedWrite {
    fn new(bucket: &Bucket, key: &[u8], content_type: &[u8], value: &Bytes) -> Self {
        let copied = if value.len() <= MAX_COPIED_VALUE_BYTES {
            &value[..]
        } else {
            b""
        };
        let fields = [bucket.id.as_bytes(), key, content_type, copied];
        let mut rest = Bytes::from(fields.concat());
        let [bucket_name, key, content_type, copied] =
            fields.map(|field| rest.split_to(field.len()));
        let value = if copied.len() == value.len() {
            copied
        } else {
            value.clone()
        };
        Self {
            id: bucket.id,
            bucket: bucket_name,
            key,
            content_type,
            value,
        }
    }
}

fn to_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn condition_to_pb(precondition: &Precondition) -> Option<pb::Condition> {
    let versions = |versions: &[crate::types::Version]| pb::Versions {
        any: versions.iter().map(|version| (*version).into()).collect(),
    };
    let kind = match precondition {
        Precondition::None => return None,
        Precondition::Exists => Condition::Exists(true),
        Precondition::Absent => Condition::Absent(true),
        Precondition::Versions(any) => Condition::Versions(versions(any)),
        Precondition::NotVersions(any) => Condition::NotVersions(versions(any)),
    };
    Some(pb::Condition { kind: Some(kind) })
}
