//! Operations on keys: gets, puts, deletes and lists them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, condition::Kind as Condition, write::Op};

use super::errors::{KeyError, Unavailable};
use super::listing;
use super::operation::Missed;
use super::reads::{Get, GetSince, Since};
use super::session;
use super::session::Session;
use super::shards::{Shards, no_leader};
use super::writes::{WriteKey, WriteResult};
use crate::meta::Bucket;
use crate::types::{BucketId, KeyInfo, ListQuery, Precondition, Put, ReadResult, Written};

/// Maximum size of a value that is copied out of the buffer that it was read into, in bytes.
const COPIED_VALUE: usize = 64 << 10;

/// Keys of all buckets. Cheap to clone.
#[derive(Clone)]
pub struct Keyspace {
    shards: Shards,
    timeout: Duration,
    session_wait: Duration,
}

impl Keyspace {
    /// Creates the keyspace over `shards`. A write's outcome is waited for for up to `timeout`, and
    /// what a client has seen in other regions for up to `session_timeout`.
    pub fn new(shards: Shards, timeout: Duration, session_timeout: Duration) -> Self {
        Self {
            shards,
            timeout,
            session_wait: session_timeout,
        }
    }

    /// Returns the shards.
    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Reads a key. Completes at once if this node leads the shard and has the record in memory.
    pub async fn get(&self, bucket: &Bucket, key: &[u8]) -> Result<ReadResult, KeyError> {
        let shard = self.shards.of(&bucket.id, key);
        let bucket = bucket.id.as_bytes();
        self.shards.run(shard, &Get { bucket, key }).await
    }

    /// Reads a key once the shard has all that the client has seen. Fails with
    /// [`Unavailable::Behind`] if it doesn't within the session timeout.
    pub async fn get_since(
        &self,
        bucket: &Bucket,
        key: &[u8],
        session: &Session,
    ) -> Result<ReadResult, KeyError> {
        let shard = self.shards.of(&bucket.id, key);
        let seen = session.of_shard(shard);
        let bucket = bucket.id.as_bytes();
        let get = Get { bucket, key };
        if seen.is_empty() {
            return self.shards.run(shard, &get).await;
        }
        let deadline = Instant::now() + self.session_wait;
        let get = GetSince { get, seen };
        loop {
            match self.shards.run(shard, &get).await? {
                Since::Read(result) => return Ok(result),
                Since::Behind if Instant::now() < deadline => {}
                Since::Behind => return Err(Unavailable::Behind.into()),
            }
        }
    }

    /// Returns the number of a key's shard.
    pub fn shard_of(&self, bucket: &Bucket, key: &[u8]) -> u16 {
        self.shards.of(&bucket.id, key)
    }

    /// Reads a key from this node's replica, which may lag. Reads at the leader if there is no
    /// replica here, or it has yet to catch up since this node started.
    pub async fn get_eventual(
        &self,
        bucket: &Bucket,
        key: &[u8],
        session: &Session,
    ) -> Result<ReadResult, KeyError> {
        let number = self.shards.of(&bucket.id, key);
        let replica = self
            .shards
            .local(number)
            .filter(|shard| shard.has_fresh_replica());
        let Some(shard) = replica else {
            return self.get_since(bucket, key, session).await;
        };
        let seen = session.of_shard(number);
        if !session::caught_up(shard, &seen, self.session_wait).await {
            return Err(Unavailable::Behind.into());
        }
        match shard.get_eventual(bucket.id.as_bytes(), key).await {
            Ok(result) => Ok(result),
            Err(error) => match Missed::from(error) {
                // The leader has another copy.
                Missed::Damaged(_) => self.get_since(bucket, key, session).await,
                Missed::NotLeader => Err(no_leader(number)),
                Missed::Failed(error) => Err(error),
            },
        }
    }

    /// Writes a key. The value is on disk at a majority of its replicas when this returns.
    pub async fn put(
        &self,
        bucket: &Arc<Bucket>,
        key: Bytes,
        put: Put,
    ) -> Result<Written, KeyError> {
        let packed = Packed::new(bucket, &key, &put.content_type, &put.value);
        let op = Op::Put(pb::Put {
            value: packed.value.clone(),
            content_type: packed.content_type.clone(),
            ttl: put.ttl.map_or(0, nanos),
            may_create: false,
        });
        match self.write(bucket, packed, op, &put.precondition).await? {
            WriteResult::Done(written) => Ok(written),
            WriteResult::ConditionFailed => Err(KeyError::PreconditionFailed),
            WriteResult::BucketGone => Err(KeyError::BucketGone),
            WriteResult::TooManyKeys(limit) => Err(KeyError::TooManyKeys { limit }),
            WriteResult::TooManyBytes(limit) => Err(KeyError::TooManyBytes { limit }),
            WriteResult::DiskFull { elsewhere } => Err(KeyError::DiskFull { elsewhere }),
        }
    }

    /// Deletes a key.
    pub async fn delete(
        &self,
        bucket: &Arc<Bucket>,
        key: Bytes,
        precondition: Precondition,
    ) -> Result<Written, KeyError> {
        let packed = Packed::new(bucket, &key, b"", &Bytes::new());
        let op = Op::Delete(pb::Delete {});
        match self.write(bucket, packed, op, &precondition).await? {
            WriteResult::Done(written) => Ok(written),
            WriteResult::ConditionFailed => Err(KeyError::PreconditionFailed),
            WriteResult::BucketGone => Err(KeyError::BucketGone),
            // A delete adds nothing.
            WriteResult::TooManyKeys(_) | WriteResult::TooManyBytes(_) => {
                Err(KeyError::UnknownOutcome)
            }
            WriteResult::DiskFull { elsewhere } => Err(KeyError::DiskFull { elsewhere }),
        }
    }

    async fn write(
        &self,
        bucket: &Arc<Bucket>,
        packed: Packed,
        op: Op,
        precondition: &Precondition,
    ) -> Result<WriteResult, KeyError> {
        let shard = self.shards.of(&packed.id, &packed.key);
        let write = pb::Write {
            bucket: packed.bucket,
            key: packed.key,
            condition: condition(precondition),
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
struct Packed {
    id: BucketId,
    bucket: Bytes,
    key: Bytes,
    content_type: Bytes,
    value: Bytes,
}

impl Packed {
    fn new(bucket: &Bucket, key: &[u8], content_type: &[u8], value: &Bytes) -> Self {
        let copied = if value.len() <= COPIED_VALUE {
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn condition(precondition: &Precondition) -> Option<pb::Condition> {
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
