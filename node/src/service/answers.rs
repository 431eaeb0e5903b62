//! Handles requests that other nodes forward to this one.
//!
//! They are authorised already. A bucket that this node doesn't know yet is looked up at the
//! metadata's leader.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, refused::Reason, reply};

use super::Service;
use super::errors::KeyError;
use super::operation::{Missed, Operation, write_refusal};
use super::reads::{Counts, Get, GetSince, Keys, Larger};
use super::room::AskForRoom;
use super::shards::Shards;
use super::writes::{Propose, WriteKey, WriteResult};
use crate::meta::Bucket;
use crate::raft::NodeId;
use crate::types::{BucketId, ListQuery};

impl Service {
    /// Handles a call of node `from`, which waits for `timeout` at most.
    pub async fn answer(&self, from: NodeId, body: call::Body, timeout: Duration) -> reply::Body {
        match body {
            call::Body::Get(get) => {
                let (bucket, key) = (&get.bucket[..], &get.key[..]);
                let (shard, seen) = (get.shard, get.seen);
                let get = Get { bucket, key };
                if seen.is_empty() {
                    self.on_leader(shard, &get).await
                } else {
                    self.on_leader(shard, &GetSince { get, seen }).await
                }
            }
            call::Body::Write(write) => self.write(write, timeout).await,
            call::Body::Page(page) => self.page(page).await,
            call::Body::Bucket(query) => {
                let (bucket, exact) = (&query.bucket[..], query.expire_first);
                self.on_leader(query.shard, &Counts { bucket, exact }).await
            }
            call::Body::Larger(query) => {
                let larger = Larger {
                    bucket: &query.bucket,
                    key_bytes: usize::try_from(query.key_bytes).unwrap_or(usize::MAX),
                    value_bytes: usize::try_from(query.value_bytes).unwrap_or(usize::MAX),
                };
                self.on_leader(query.shard, &larger).await
            }
            call::Body::Command(command) => match command.command.and_then(|command| command.kind) {
                Some(kind) => self.on_leader(command.shard, &Propose(kind)).await,
                None => unknown(),
            },
            call::Body::Meta(call) => self.metadata().answer_command(call.command, timeout).await,
            call::Body::Barrier(_) => self.metadata().answer_barrier(),
            call::Body::AwaitApplied(wait) => {
                self.metadata().answer_applied(wait.index, timeout).await
            }
            call::Body::Room(request) => self.room(from, &request.bucket).await,
            call::Body::RoomQuery(query) => self.room_state(&query),
            call::Body::Reads(query) => self.reads(&query).await,
            call::Body::Checkpoints(query) => self.checkpoints(query),
            call::Body::Ping(_)
            | call::Body::Merge(_)
            | call::Body::Peer(_)
            | call::Body::Level(_)
            | call::Body::Digest(_)
            | call::Body::Append(_)
            | call::Body::Vote(_)
            | call::Body::Transfer(_)
            | call::Body::Snapshot(_)
            | call::Body::User(_) => unknown(),
        }
    }

    /// Returns the digests of this node's replica of a shard at its latest checkpoints.
    fn checkpoints(&self, query: pb::CheckpointsQuery) -> reply::Body {
        let number = u16::try_from(query.shard).unwrap_or(u16::MAX);
        let shard = self.shards().local(number);
        let shard = shard.filter(|shard| shard.is_hosted());
        match shard.and_then(|shard| shard.view().checkpoints().told()) {
            Some(points) => reply::Body::Checkpoints(pb::Checkpoints { points }),
            None => unknown(),
        }
    }

    fn shards(&self) -> &Shards {
        self.keyspace.shards()
    }

    /// Executes an operation if this node leads the shard, else names the leader.
    async fn on_leader<O: Operation>(&self, shard: u32, operation: &O) -> reply::Body {
        let number = u16::try_from(shard).unwrap_or(u16::MAX);
        let Some(shard) = self.shards().local(number) else {
            return unknown();
        };
        let error = if shard.serves() {
            match operation.here(shard).await {
                Ok(output) => return O::encode(output),
                Err(error) => error,
            }
        } else {
            Missed::NotLeader
        };
        write_refusal(error, shard.leader_elsewhere())
    }

    async fn write(&self, forwarded: pb::ForwardedWrite, timeout: Duration) -> reply::Body {
        let Some(write) = forwarded.write else {
            return unknown();
        };
        let bucket = match self.known_bucket(&write.bucket).await {
            Ok(Some(bucket)) => bucket,
            // It was deleted since the other node looked it up.
            Ok(None) => return WriteKey::encode(WriteResult::BucketGone),
            Err(error) => return write_refusal(error, None),
        };
        let write = WriteKey {
            shards: self.shards(),
            bucket: &bucket,
            write,
            timeout,
        };
        self.on_leader(forwarded.shard, &write).await
    }

    async fn page(&self, page: pb::ForwardedPage) -> reply::Body {
        let query = ListQuery {
            prefix: page.prefix,
            after: page.after,
            limit: page.limit as usize,
        };
        let (bucket, query) = (&page.bucket[..], &query);
        self.on_leader(page.shard, &Keys { bucket, query }).await
    }

    async fn room(&self, from: NodeId, bucket: &[u8]) -> reply::Body {
        let bucket = match self.known_bucket(bucket).await {
            Ok(Some(bucket)) => bucket,
            Ok(None) => return write_refusal(KeyError::BucketGone.into(), None),
            Err(error) => return write_refusal(error, None),
        };
        let shards = self.shards();
        let request = AskForRoom {
            shards,
            bucket: &bucket,
            from,
        };
        let home = u32::from(shards.home(&bucket.id));
        self.on_leader(home, &request).await
    }

    /// Returns the quota that this node holds for a bucket, and the key counts that it published.
    fn room_state(&self, query: &pb::RoomQuery) -> reply::Body {
        let bucket = BucketId::parse(&query.bucket).and_then(|id| self.directory.bucket(&id));
        let Some(bucket) = bucket else {
            return reply::Body::RoomState(pb::RoomState::default());
        };
        let quota = bucket.usage.budget.held(query.recall);
        let published = bucket.usage.published().into_iter();
        reply::Body::RoomState(pb::RoomState {
            left: quota.left,
            taken: quota.taken,
            last_grant: quota.last_grant,
            published: published
                .map(|(keys, at)| pb::PublishedCount { keys, at })
                .collect(),
        })
    }

    /// Returns the reads of a bucket that this region has counted.
    async fn reads(&self, query: &pb::ReadsQuery) -> reply::Body {
        let bucket = BucketId::parse(&query.bucket).and_then(|id| self.directory.bucket(&id));
        let Some(bucket) = bucket else {
            return reply::Body::Reads(pb::ReadsReply::default());
        };
        match self.directory.reads_here(&bucket).await {
            Ok((hits, misses)) => reply::Body::Reads(pb::ReadsReply { hits, misses }),
            Err(error) => write_refusal(error.into(), None),
        }
    }

    /// Looks up a bucket for which another node has authorised a request: here, then at the
    /// metadata's leader.
    async fn known_bucket(&self, id: &[u8]) -> Result<Option<Arc<Bucket>>, Missed> {
        let Some(id) = BucketId::parse(id) else {
            return Ok(None);
        };
        match self.directory.bucket(&id) {
            Some(bucket) => Ok(Some(bucket)),
            None => match self.directory.find_bucket(&id).await {
                Ok(bucket) => Ok(bucket),
                Err(unavailable) => Err(KeyError::from(unavailable).into()),
            },
        }
    }
}

fn unknown() -> reply::Body {
    reply::Body::Refused(pb::Refused {
        reason: Reason::Failed.into(),
        message: "this node doesn't know that call".to_owned(),
        leader: 0,
    })
}
