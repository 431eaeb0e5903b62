//! Handles requests that other nodes forward to this one.
//!
//! They are authorised already. A bucket that this node doesn't know yet is looked up at the
//! metadata's leader.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, refused::Reason, reply};

use super::Service;
use super::batch_writes::WriteBatch;
use super::change_pins::handle_pin;
use super::errors::KeyError;
use super::list_keys::ListKeys;
use super::operation::{Operation, ShardError, encode_refusal};
use super::quota::RequestQuotaLease;
use super::read_changes::ChangesQuery;
use super::reads::{GetBucketState, GetKey, HasLarger, SessionGet};
use super::shards::Shards;
use super::writes::{ProposeCommand, WriteKey, WriteResult};
use crate::meta::Bucket;
use crate::raft::{Checkpoints, NodeId};
use crate::types::BucketId;

impl Service {
    /// Handles a call of node `from`, which waits for `timeout` at most.
    pub async fn handle_call(
        &self,
        from: NodeId,
        body: call::Body,
        timeout: Duration,
    ) -> reply::Body {
        match body {
            call::Body::Get(get) => {
                let (bucket, key) = (&get.bucket[..], &get.key[..]);
                let (shard, seen) = (get.shard, get.seen);
                let get = GetKey { bucket, key };
                if seen.is_empty() {
                    self.execute_locally(shard, &get).await
                } else {
                    self.execute_locally(shard, &SessionGet { get, seen }).await
                }
            }
            call::Body::Write(write) => self.handle_write(write, timeout).await,
            call::Body::Batch(batch) => self.handle_batch(batch, timeout).await,
            call::Body::Page(page) => self.handle_page(page).await,
            call::Body::Bucket(query) => {
                let (bucket, exact) = (&query.bucket[..], query.expire_first);
                self.execute_locally(query.shard, &GetBucketState { bucket, exact })
                    .await
            }
            call::Body::Larger(query) => {
                let larger = HasLarger {
                    bucket: &query.bucket,
                    key_bytes: usize::try_from(query.key_bytes).unwrap_or(usize::MAX),
                    value_bytes: usize::try_from(query.value_bytes).unwrap_or(usize::MAX),
                };
                self.execute_locally(query.shard, &larger).await
            }
            call::Body::Command(command) => {
                match command.command.and_then(|command| command.kind) {
                    Some(kind) => {
                        self.execute_locally(command.shard, &ProposeCommand(kind))
                            .await
                    }
                    None => unknown_call(),
                }
            }
            call::Body::Meta(call) => self.metadata().handle_command(call.command, timeout).await,
            call::Body::Barrier(_) => self.metadata().handle_barrier(),
            call::Body::AwaitApplied(wait) => {
                self.metadata()
                    .handle_await_applied(wait.index, timeout)
                    .await
            }
            call::Body::Quota(request) => self.handle_quota_request(from, &request.bucket).await,
            call::Body::QuotaQuery(query) => self.quota_state(&query),
            call::Body::Reads(query) => self.region_read_counts(&query).await,
            call::Body::Checkpoints(query) => self.checkpoints(query),
            call::Body::MetadataCheckpoints(_) => report_checkpoints(self.metadata().checkpoints()),
            call::Body::Pin(pin) => handle_pin(self.shards(), &pin),
            call::Body::Changes(query) => self.handle_changes(query).await,
            call::Body::Ping(_)
            | call::Body::Merge(_)
            | call::Body::Peer(_)
            | call::Body::Reconcile(_)
            | call::Body::Digest(_)
            | call::Body::Log(_)
            | call::Body::Rejoin(_)
            | call::Body::Append(_)
            | call::Body::Vote(_)
            | call::Body::Transfer(_)
            | call::Body::Snapshot(_)
            | call::Body::User(_) => unknown_call(),
        }
    }

    /// Returns the digests of this node's replica of a shard at its latest checkpoints.
    fn checkpoints(&self, query: pb::CheckpointsQuery) -> reply::Body {
        let number = u16::try_from(query.shard).unwrap_or(u16::MAX);
        let shard = self.shards().local(number);
        let shard = shard.filter(|shard| shard.is_hosted());
        shard.map_or_else(unknown_call, |shard| {
            report_checkpoints(shard.group().checkpoints())
        })
    }

    fn shards(&self) -> &Shards {
        self.keyspace.shards()
    }

    /// Executes an operation if this node leads the shard, else names the leader.
    async fn execute_locally<O: Operation>(&self, shard: u32, operation: &O) -> reply::Body {
        let number = u16::try_from(shard).unwrap_or(u16::MAX);
        let Some(shard) = self.shards().local(number) else {
            return unknown_call();
        };
        let error = if shard.is_serving() {
            match operation.execute(shard).await {
                Ok(output) => return O::encode(output),
                Err(error) => error,
            }
        } else {
            ShardError::NotLeader
        };
        encode_refusal(error, shard.remote_leader())
    }

    async fn handle_write(&self, forwarded: pb::ForwardedWrite, timeout: Duration) -> reply::Body {
        let Some(write) = forwarded.write else {
            return unknown_call();
        };
        let bucket = match self.find_forwarded_bucket(&write.bucket).await {
            Ok(Some(bucket)) => bucket,
            // It was deleted since the other node looked it up.
            Ok(None) => return WriteKey::encode(WriteResult::BucketDeleted),
            Err(error) => return encode_refusal(error, None),
        };
        let write = WriteKey {
            shards: self.shards(),
            bucket: &bucket,
            write,
            timeout,
        };
        self.execute_locally(forwarded.shard, &write).await
    }

    async fn handle_batch(&self, forwarded: pb::ForwardedBatch, timeout: Duration) -> reply::Body {
        let writes = forwarded.writes;
        let id = writes.first().map(|write| write.bucket.clone());
        let Some(id) = id.filter(|id| writes.iter().all(|write| write.bucket == *id)) else {
            // A batch is of one bucket.
            return unknown_call();
        };
        let bucket = match self.find_forwarded_bucket(&id).await {
            Ok(Some(bucket)) => bucket,
            Ok(None) => {
                let deleted = writes.iter().map(|_| Ok(WriteResult::BucketDeleted));
                return WriteBatch::encode(deleted.collect());
            }
            Err(error) => return encode_refusal(error, None),
        };
        let batch = WriteBatch {
            shards: self.shards(),
            bucket: &bucket,
            writes,
            timeout,
        };
        self.execute_locally(forwarded.shard, &batch).await
    }

    async fn handle_page(&self, page: pb::ForwardedPage) -> reply::Body {
        let (shard, bucket) = (page.shard, page.bucket.clone());
        let query = ListKeys::decode_query(page);
        let list = ListKeys {
            bucket: &bucket,
            query: &query,
        };
        self.execute_locally(shard, &list).await
    }

    async fn handle_changes(&self, query: pb::ChangesQuery) -> reply::Body {
        match ChangesQuery::decode(query) {
            Some(query) => self.execute_locally(query.shard, &query.operation()).await,
            None => unknown_call(),
        }
    }

    async fn handle_quota_request(&self, from: NodeId, bucket: &[u8]) -> reply::Body {
        let bucket = match self.find_forwarded_bucket(bucket).await {
            Ok(Some(bucket)) => bucket,
            Ok(None) => return encode_refusal(KeyError::BucketDeleted.into(), None),
            Err(error) => return encode_refusal(error, None),
        };
        let shards = self.shards();
        let request = RequestQuotaLease {
            shards,
            bucket: &bucket,
            from,
        };
        let home = u32::from(shards.home_shard(&bucket.id));
        self.execute_locally(home, &request).await
    }

    /// Returns the quota that this node holds for a bucket, and the key counts that it published.
    fn quota_state(&self, query: &pb::QuotaQuery) -> reply::Body {
        let bucket = BucketId::parse(&query.bucket).and_then(|id| self.directory.bucket(&id));
        let Some(bucket) = bucket else {
            return reply::Body::QuotaState(pb::QuotaState::default());
        };
        let quota = bucket.usage.key_quota.lease(query.recall);
        let published = bucket.usage.published().into_iter();
        reply::Body::QuotaState(pb::QuotaState {
            available: quota.available,
            reserved: quota.reserved,
            last_grant: quota.last_grant,
            published: published
                .map(|(keys, at)| pb::PublishedCount { keys, at })
                .collect(),
        })
    }

    /// Returns the reads of a bucket that this region has counted.
    async fn region_read_counts(&self, query: &pb::ReadsQuery) -> reply::Body {
        let bucket = BucketId::parse(&query.bucket).and_then(|id| self.directory.bucket(&id));
        let Some(bucket) = bucket else {
            return reply::Body::Reads(pb::ReadsReply::default());
        };
        match self.directory.own_region_reads(&bucket).await {
            Ok((hits, misses)) => reply::Body::Reads(pb::ReadsReply { hits, misses }),
            Err(error) => encode_refusal(error.into(), None),
        }
    }

    /// Looks up a bucket for which another node has authorised a request: here, then at the
    /// metadata's leader.
    async fn find_forwarded_bucket(&self, id: &[u8]) -> Result<Option<Arc<Bucket>>, ShardError> {
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

/// Returns the digests of a replica at its latest checkpoints.
fn report_checkpoints(checkpoints: &Checkpoints) -> reply::Body {
    match checkpoints.report() {
        Some(points) => reply::Body::Checkpoints(pb::Checkpoints { points }),
        None => unknown_call(),
    }
}

fn unknown_call() -> reply::Body {
    reply::Body::Refused(pb::Refused {
        reason: Reason::Failed.into(),
        message: "this node doesn't know that call".to_owned(),
        leader: 0,
    })
}
