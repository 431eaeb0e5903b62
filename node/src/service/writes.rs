//! Operations that write to a shard.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply, shard_command, write::Op, write_reply};

use super::bytes;
use super::errors::{KeyError, Unavailable};
use super::operation::{Missed, Operation};
use super::room::{self, Room};
use super::shards::Shards;
use crate::meta::Bucket;
use crate::raft::ProposeError;
use crate::shard::{ShardHandle, WriteOutcome};
use crate::types::{Version, Written};

/// Maximum number of attempts of a write in a full bucket whose key is deleted during each attempt.
const ROOM_TRIES: usize = 8;

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
    Done(Written),
    ConditionFailed,
    BucketGone,
    TooManyKeys(u64),
    TooManyBytes(u64),
    DiskFull { elsewhere: bool },
}

impl WriteKey<'_> {
    /// Returns the write, which may create its key if there is a reservation.
    fn with_room(&self, reservation: &Room) -> pb::Write {
        let mut write = self.write.clone();
        if let Some(Op::Put(put)) = &mut write.op {
            put.may_create = reservation.is_some();
        }
        write
    }

    /// Returns whether a put's value fits within the plan's bytes for a bucket.
    async fn fits(&self, shard: &ShardHandle, limit: u64) -> Result<bool, Missed> {
        let Some(Op::Put(put)) = &self.write.op else {
            return Ok(true);
        };
        let key = &self.write.key;
        let bytes = (key.len() + put.value.len()) as u64;
        // Path of nearly all writes: no await, nothing counted.
        if self.bucket.usage.byte_quota.take(bytes, Instant::now()) {
            return Ok(true);
        }
        let put = bytes::Addition { key, bytes, limit };
        bytes::admit(self.shards, shard, self.bucket, put, self.timeout).await
    }

    fn creates(&self) -> bool {
        matches!(self.write.op, Some(Op::Put(_)))
    }

    /// Reserves quota for a key that may be new.
    async fn room(&self, shard: &ShardHandle) -> Result<Room, Missed> {
        if !self.creates() {
            return Ok(None);
        }
        // Path of nearly all writes: no await, nothing counted.
        match self.bucket.usage.budget.take(shard.led_since()) {
            Some(reservation) => Ok(Some(reservation)),
            None => {
                room::find(
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
    const REPEATABLE: bool = false;

    async fn here(&self, shard: &ShardHandle) -> Result<WriteResult, Missed> {
        if !shard.serves() {
            return Err(Missed::NotLeader);
        }
        if let Some(elsewhere) = shard.gate().refuses(self.creates()) {
            return Ok(WriteResult::DiskFull { elsewhere });
        }
        if let Some(limit) = self.bucket.limits.bytes
            && !self.fits(shard, limit).await?
        {
            return Ok(WriteResult::TooManyBytes(limit));
        }
        for _ in 0..ROOM_TRIES {
            let reservation = match self.room(shard).await {
                Err(Missed::Failed(KeyError::TooManyKeys { limit })) => {
                    return Ok(WriteResult::TooManyKeys(limit));
                }
                result => result?,
            };
            let write = self.with_room(&reservation);
            match shard.write(write, reservation, self.timeout).await? {
                WriteOutcome::Written(written) => return Ok(WriteResult::Done(written)),
                WriteOutcome::ConditionFailed => return Ok(WriteResult::ConditionFailed),
                WriteOutcome::BucketGone => return Ok(WriteResult::BucketGone),
                // The key was deleted after it was read: count again.
                WriteOutcome::NoRoom => {}
            }
        }
        // It isn't known whether the bucket is full: in each attempt, the key existed when quota
        // was to be reserved.
        let queue = "writes near the bucket's limit";
        Err(KeyError::from(Unavailable::Overloaded { queue }).into())
    }

    fn call(&self, shard: u16) -> call::Body {
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
            WriteResult::BucketGone => Kind::BucketGone(true),
            WriteResult::TooManyKeys(limit) => Kind::TooManyKeys(limit),
            WriteResult::TooManyBytes(limit) => Kind::TooManyBytes(limit),
            WriteResult::DiskFull { elsewhere } => Kind::DiskFull(pb::DiskFull { elsewhere }),
        };
        reply::Body::Write(pb::WriteReply { kind: Some(kind) })
    }

    fn decode(reply: reply::Body) -> Option<WriteResult> {
        use write_reply::Kind;
        let reply::Body::Write(reply) = reply else {
            return None;
        };
        Some(match reply.kind? {
            Kind::Done(done) => WriteResult::Done(Written {
                version: done.version.map(Version::from)?,
                existed: done.existed,
                expires_at: (done.expires_at != 0).then_some(done.expires_at),
            }),
            Kind::ConditionFailed(_) => WriteResult::ConditionFailed,
            Kind::BucketGone(_) => WriteResult::BucketGone,
            Kind::TooManyKeys(limit) => WriteResult::TooManyKeys(limit),
            Kind::TooManyBytes(limit) => WriteResult::TooManyBytes(limit),
            Kind::DiskFull(full) => WriteResult::DiskFull {
                elsewhere: full.elsewhere,
            },
        })
    }

    fn size(&self) -> usize {
        let value = match &self.write.op {
            Some(Op::Put(put)) => put.value.len(),
            Some(Op::Delete(_)) | None => 0,
        };
        value + 512
    }
}

/// Proposes a command that is no write, of a kind that may be applied twice.
pub(super) struct Propose(pub shard_command::Kind);

impl Operation for Propose {
    type Output = ();
    const REPEATABLE: bool = false;

    async fn here(&self, shard: &ShardHandle) -> Result<(), Missed> {
        match shard.propose(self.0.clone()).await {
            Ok(_) => Ok(()),
            Err(ProposeError::NotLeader { .. }) => Err(Missed::NotLeader),
            Err(ProposeError::Unknown) => Err(KeyError::UnknownOutcome.into()),
        }
    }

    fn call(&self, shard: u16) -> call::Body {
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
