//! Operations on keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, condition::Kind as Condition, write::Op};

use super::errors::KeyError;
use super::listing;
use super::room::{self, Room};
use super::shards::{Shards, read_error, write_error};
use crate::meta::Bucket;
use crate::shard::WriteOutcome;
use crate::types::{BucketId, Entry, KeyInfo, ListQuery, Precondition, Put, Written};

/// How often a write is tried that loses its key to a delete each time, in a bucket that is full.
const ROOM_TRIES: usize = 8;
/// Values up to this size are copied out of the buffer that they were read into, in bytes.
const COPIED_VALUE: usize = 64 << 10;

/// Keys of all buckets. Cheap to clone.
#[derive(Clone)]
pub struct Keyspace {
    shards: Shards,
    timeout: Duration,
}

impl Keyspace {
    /// Keys on `shards`; a write's outcome is waited for at most for `timeout`.
    pub fn new(shards: Shards, timeout: Duration) -> Self {
        Self { shards, timeout }
    }

    /// The live entry of a key. Completes at once if memory has the answer.
    pub async fn get(&self, bucket: &Bucket, key: &[u8]) -> Result<Option<Entry>, KeyError> {
        let shard = self.shards.of(&bucket.id, key);
        shard
            .get(bucket.id.as_bytes(), key)
            .await
            .map_err(|error| read_error(shard, error))
    }

    /// Writes a key. The value is on disk at a majority of its replicas when this returns.
    pub async fn put(
        &self,
        bucket: &Arc<Bucket>,
        key: Bytes,
        put: Put,
    ) -> Result<Written, KeyError> {
        let packed = Packed::new(bucket, &key, &put.content_type, &put.value);
        for _ in 0..ROOM_TRIES {
            let room = self.room(bucket, &key).await?;
            let op = pb::Put {
                value: packed.value.clone(),
                content_type: packed.content_type.clone(),
                ttl: put.ttl.map_or(0, nanos),
                may_create: room.is_some(),
            };
            let write = self.write(&packed, Op::Put(op), &put.precondition, room);
            match write.await? {
                WriteOutcome::Written(written) => return Ok(written),
                WriteOutcome::ConditionFailed => return Err(KeyError::PreconditionFailed),
                WriteOutcome::BucketGone => return Err(KeyError::BucketGone),
                // The key was deleted after it was seen: count again.
                WriteOutcome::NoRoom => {}
            }
        }
        Err(KeyError::TooManyKeys {
            limit: bucket.limits.keys,
        })
    }

    async fn room(&self, bucket: &Arc<Bucket>, key: &[u8]) -> Result<Room, KeyError> {
        // The way of nearly all writes: no await, nothing counted.
        match bucket.usage.budget.take() {
            Some(reservation) => Ok(Some(reservation)),
            None => room::find(&self.shards, self, bucket, key, self.timeout).await,
        }
    }

    /// Deletes a key, and tells whether it was there.
    pub async fn delete(
        &self,
        bucket: &Arc<Bucket>,
        key: Bytes,
        precondition: Precondition,
    ) -> Result<bool, KeyError> {
        let packed = Packed::new(bucket, &key, b"", &Bytes::new());
        let write = self.write(&packed, Op::Delete(pb::Delete {}), &precondition, None);
        match write.await? {
            WriteOutcome::Written(written) => Ok(written.existed),
            WriteOutcome::ConditionFailed => Err(KeyError::PreconditionFailed),
            WriteOutcome::BucketGone => Err(KeyError::BucketGone),
            // A delete takes no room.
            WriteOutcome::NoRoom => Err(KeyError::UnknownOutcome),
        }
    }

    async fn write(
        &self,
        packed: &Packed,
        op: Op,
        precondition: &Precondition,
        room: Room,
    ) -> Result<WriteOutcome, KeyError> {
        let shard = self.shards.of(&packed.id, &packed.key);
        let write = pb::Write {
            bucket: packed.bucket.clone(),
            key: packed.key.clone(),
            condition: condition(precondition),
            op: Some(op),
        };
        let outcome = shard.write(write, room, self.timeout).await;
        outcome.map_err(|error| write_error(shard, &error))
    }

    /// Live keys of a bucket, ascending by bytes, over all shards.
    pub async fn list(&self, bucket: &Bucket, query: ListQuery) -> Result<Vec<KeyInfo>, KeyError> {
        listing::list(&self.shards, bucket, query).await
    }
}

/// The parts of a write, in one allocation of their size.
///
/// They come as slices of the buffer that their request was read into. Kept as such, in the queue
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
        let parts = [bucket.id.as_bytes(), key, content_type, copied];
        let mut rest = Bytes::from(parts.concat());
        let [bucket_part, key, content_type, copied] = parts.map(|part| rest.split_to(part.len()));
        let value = if copied.len() == value.len() {
            copied
        } else {
            value.clone()
        };
        Self {
            id: bucket.id,
            bucket: bucket_part,
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
