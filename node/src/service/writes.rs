//! Operations that write to a shard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply, shard_command, write::Op, write_reply};

use super::byte_quota;
use super::errors::{KeyError, Unavailable};
use super::operation::{Operation, ShardError};
use super::quota::{self, OptionalReservation};
use super::shards::Shards;
use crate::meta::Bucket;
use crate::raft::ProposeError;
use crate::shard::{KEY_METADATA_LEVEL, ShardHandle, WriteOutcome};
use crate::store::DiskShortage;
use crate::types::{Version, WriteReceipt};

/// Maximum number of attempts of a write in a full bucket whose key is deleted during each attempt.
const MAX_QUOTA_ATTEMPTS: usize = 8;

/// Writes a key.
pub(super) struct WriteKey<'a> {
    pub shards: &'a Shards,
    pub bucket: &'a Arc<Bucket>,
    pub write: pb::Write,
    pub timeout: Duration,
}

/// Outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteResult {
    Done(WriteReceipt),
    ConditionFailed,
    BucketDeleted,
    TooManyKeys(u64),
    TooManyBytes(u64),
    DiskFull(DiskShortage),
    KeyMissing,
}

impl WriteResult {
    /// Returns the receipt of a write that was done.
    pub(super) fn into_receipt(self) -> Result<WriteReceipt, KeyError> {
        match self {
            Self::Done(written) => Ok(written),
            Self::ConditionFailed => Err(KeyError::PreconditionFailed),
            Self::BucketDeleted => Err(KeyError::BucketDeleted),
            Self::TooManyKeys(limit) => Err(KeyError::TooManyKeys { limit }),
            Self::TooManyBytes(limit) => Err(KeyError::TooManyBytes { limit }),
            Self::DiskFull(shortage) => Err(KeyError::DiskFull(shortage)),
            Self::KeyMissing => Err(KeyError::NoSuchKey),
        }
    }
}

/// Returns whether a write needs `KEY_METADATA_LEVEL`.
pub(super) fn needs_metadata_level(write: &pb::Write) -> bool {
    match &write.op {
        Some(Op::Put(put)) => put.expires_at != 0 || !put.metadata.is_empty(),
        Some(Op::Touch(_)) => true,
        Some(Op::Delete(_)) | None => false,
    }
}

impl WriteKey<'_> {
    /// Returns the write, which may create its key if there is a reservation.
    fn with_reservation(&self, reservation: &OptionalReservation) -> pb::Write {
        let mut write = self.write.clone();
        if let Some(Op::Put(put)) = &mut write.op {
            put.may_create = reservation.is_some();
        }
        write
    }

    /// Returns the bytes that a write may add to its bucket.
    fn added_bytes(&self) -> u64 {
        let bytes = match &self.write.op {
            Some(Op::Put(put)) => self.write.key.len() + put.value.len() + put.metadata.len(),
            Some(Op::Touch(touch)) => touch.metadata.as_ref().map_or(0, bytes::Bytes::len),
            Some(Op::Delete(_)) | None => 0,
        };
        bytes as u64
    }

    /// Returns whether a write's bytes fit within the plan's bytes for a bucket.
    async fn fits_byte_quota(&self, shard: &ShardHandle, limit: u64) -> Result<bool, ShardError> {
        let bytes = self.added_bytes();
        if bytes == 0 {
            return Ok(true);
        }
        let key = &self.write.key;
        // Path of nearly all writes: no await, nothing counted.
        if self.bucket.usage.byte_quota.consume(bytes, Instant::now()) {
            return Ok(true);
        }
        let replaces_value = self.is_put();
        let put = byte_quota::WriteSize {
            key,
            bytes,
            limit,
            replaces_value,
        };
        byte_quota::admit(self.shards, shard, self.bucket, put, self.timeout).await
    }

    fn is_put(&self) -> bool {
        matches!(self.write.op, Some(Op::Put(_)))
    }

    fn grows(&self) -> bool {
        match &self.write.op {
            Some(Op::Put(_)) => true,
            Some(Op::Touch(touch)) => touch.metadata.as_ref().is_some_and(|it| !it.is_empty()),
            Some(Op::Delete(_)) | None => false,
        }
    }

    /// Reserves quota for a key that may be new.
    async fn reserve_quota(&self, shard: &ShardHandle) -> Result<OptionalReservation, ShardError> {
        if !self.is_put() {
            return Ok(None);
        }
        // Path of nearly all writes: no await, nothing counted.
        match self.bucket.usage.key_quota.reserve(shard.led_since()) {
            Some(reservation) => Ok(Some(reservation)),
            None => {
                quota::reserve(
                    self.shards,
                    shard,
                    self.bucket,
                    &self.write.key,
                    self.timeout,
                )
                .await
            }
        }
    }
}

impl Operation for WriteKey<'_> {
    type Output = WriteResult;
    // A PUT is idempotent alone, but not among others: repeated, it can undo a later one.
    const RETRYABLE: bool = false;

    async fn execute(&self, shard: &ShardHandle) -> Result<WriteResult, ShardError> {
        if !shard.is_serving() {
            return Err(ShardError::NotLeader);
        }
        if let Some(shortage) = shard.gate().refuses(self.grows()) {
            return Ok(WriteResult::DiskFull(shortage));
        }
        if let Some(limit) = self.bucket.limits.bytes
            && !self.fits_byte_quota(shard, limit).await?
        {
            return Ok(WriteResult::TooManyBytes(limit));
        }
        if needs_metadata_level(&self.write) {
            shard.raise_level(KEY_METADATA_LEVEL).await?;
        }
        for _ in 0..MAX_QUOTA_ATTEMPTS {
            let reservation = match self.reserve_quota(shard).await {
                Err(ShardError::Failed(KeyError::TooManyKeys { limit })) => {
                    return Ok(WriteResult::TooManyKeys(limit));
                }
                result => result?,
            };
            let write = self.with_reservation(&reservation);
            match shard.write(write, reservation, self.timeout).await? {
                WriteOutcome::Written(written) => return Ok(WriteResult::Done(written)),
                WriteOutcome::ConditionFailed => return Ok(WriteResult::ConditionFailed),
                WriteOutcome::KeyMissing => return Ok(WriteResult::KeyMissing),
                WriteOutcome::BucketDropped => return Ok(WriteResult::BucketDeleted),
                // The key was deleted after it was read: count again.
                WriteOutcome::NoQuota => {}
            }
        }
        // It isn't known whether the bucket is full: in each attempt, the key existed when quota
        // was to be reserved.
        let queue = "writes near the bucket's limit";
        Err(KeyError::from(Unavailable::Overloaded { queue }).into())
    }

    fn to_call(&self, shard: u16) -> call::Body {
        call::Body::Write(pb::ForwardedWrite {
            shard: u32::from(shard),
            write: Some(self.write.clone()),
        })
    }

    fn encode(result: WriteResult) -> reply::Body {
        use write_reply::Kind;
        let kind = match result {
            WriteResult::Done(written) => Kind::Done(pb::WriteDone {
                version: Some(written.version.into()),
                existed: written.existed,
                expires_at: written.expires_at.unwrap_or(0),
            }),
            WriteResult::ConditionFailed => Kind::ConditionFailed(true),
            WriteResult::BucketDeleted => Kind::BucketDeleted(true),
            WriteResult::TooManyKeys(limit) => Kind::TooManyKeys(limit),
            WriteResult::TooManyBytes(limit) => Kind::TooManyBytes(limit),
            WriteResult::DiskFull(shortage) => Kind::DiskFull(pb::DiskFull {
                elsewhere: shortage.elsewhere,
                refuses_all: shortage.refuses_all,
            }),
            WriteResult::KeyMissing => Kind::KeyMissing(true),
        };
        reply::Body::Write(pb::WriteReply { kind: Some(kind) })
    }

    fn decode(reply: reply::Body) -> Option<WriteResult> {
        use write_reply::Kind;
        let reply::Body::Write(reply) = reply else {
            return None;
        };
        Some(match reply.kind? {
            Kind::Done(done) => WriteResult::Done(WriteReceipt {
                version: done.version.map(Version::from)?,
                existed: done.existed,
                expires_at: (done.expires_at != 0).then_some(done.expires_at),
            }),
            Kind::ConditionFailed(_) => WriteResult::ConditionFailed,
            Kind::BucketDeleted(_) => WriteResult::BucketDeleted,
            Kind::TooManyKeys(limit) => WriteResult::TooManyKeys(limit),
            Kind::TooManyBytes(limit) => WriteResult::TooManyBytes(limit),
            Kind::DiskFull(full) => WriteResult::DiskFull(DiskShortage {
                elsewhere: full.elsewhere,
                refuses_all: full.refuses_all,
            }),
            Kind::KeyMissing(_) => WriteResult::KeyMissing,
        })
    }

    fn queued_bytes(&self) -> usize {
        let value = match &self.write.op {
            Some(Op::Put(put)) => put.value.len(),
            Some(Op::Touch(_) | Op::Delete(_)) | None => 0,
        };
        value + 512
    }
}

/// Proposes a command that is no write, of a kind that may be applied twice.
pub(super) struct ProposeCommand(pub shard_command::Kind);

impl Operation for ProposeCommand {
    type Output = ();
    const RETRYABLE: bool = false;

    async fn execute(&self, shard: &ShardHandle) -> Result<(), ShardError> {
        match shard.propose(self.0.clone()).await {
            Ok(_) => Ok(()),
            Err(ProposeError::NotLeader { .. }) => Err(ShardError::NotLeader),
            Err(ProposeError::Unknown) => Err(KeyError::UnknownOutcome.into()),
        }
    }

    fn to_call(&self, shard: u16) -> call::Body {
        let kind = Some(self.0.clone());
        call::Body::Command(pb::ForwardedCommand {
            shard: u32::from(shard),
            command: Some(pb::ShardCommand { kind }),
        })
    }

    fn encode((): ()) -> reply::Body {
        reply::Body::Command(pb::CommandReply {})
    }

    fn decode(reply: reply::Body) -> Option<()> {
        matches!(reply, reply::Body::Command(_)).then_some(())
    }
}
