//! Operations that read a shard.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};

use super::operation::{Operation, ShardError};
use super::session;
use crate::raft::ProposeError;
use crate::shard::ShardHandle;
use crate::types::{ReadResult, StoredValue, Version};

/// Reads a key.
pub(super) struct GetKey<'a> {
    pub bucket: &'a [u8],
    pub key: &'a [u8],
}

impl Operation for GetKey<'_> {
    type Output = ReadResult;
    const RETRYABLE: bool = true;

    async fn execute(&self, shard: &ShardHandle) -> Result<Self::Output, ShardError> {
        Ok(shard.get(self.bucket, self.key).await?)
    }

    fn to_call(&self, shard: u16) -> call::Body {
        call::Body::Get(pb::ForwardedGet {
            shard: u32::from(shard),
            bucket: Bytes::copy_from_slice(self.bucket),
            key: Bytes::copy_from_slice(self.key),
            seen: Vec::new(),
        })
    }

    fn encode(result: Self::Output) -> reply::Body {
        let mut reply = pb::GetReply::default();
        match result {
            ReadResult::Live(entry) => {
                reply.record = Some(pb::Record {
                    version: Some(entry.version.into()),
                    expires_at: entry.expires_at.unwrap_or(0),
                    content_type: entry.content_type,
                    metadata: entry.metadata,
                    value: entry.value,
                    ..Default::default()
                });
            }
            ReadResult::Deleted(version) => reply.deleted_version = Some(version.into()),
            ReadResult::Missing => {}
        }
        reply::Body::Get(reply)
    }

    fn decode(reply: reply::Body) -> Option<Self::Output> {
        let reply::Body::Get(reply) = reply else {
            return None;
        };
        let Some(record) = reply.record else {
            let deleted = reply.deleted_version.map(Version::from);
            return Some(deleted.map_or(ReadResult::Missing, ReadResult::Deleted));
        };
        Some(ReadResult::Live(StoredValue {
            version: record.version.map(Version::from).unwrap_or_default(),
            expires_at: (record.expires_at != 0).then_some(record.expires_at),
            content_type: record.content_type,
            metadata: record.metadata,
            value: record.value,
        }))
    }
}

/// Reads a key once the shard has all that the client has seen.
pub(super) struct SessionGet<'a> {
    pub get: GetKey<'a>,
    pub seen: Vec<pb::SeenVersion>,
}

/// Result of a [`SessionGet`].
pub(super) enum SessionRead {
    Read(ReadResult),
    /// The shard lacks something that the client has seen.
    Behind,
}

/// Time for which one attempt waits for the shard to catch up: shorter than the timeout of a call
/// to another node.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(400);

impl Operation for SessionGet<'_> {
    type Output = SessionRead;
    const RETRYABLE: bool = true;

    async fn execute(&self, shard: &ShardHandle) -> Result<SessionRead, ShardError> {
        if session::wait_until_caught_up(shard, &self.seen, CATCH_UP_TIMEOUT).await {
            Ok(SessionRead::Read(self.get.execute(shard).await?))
        } else {
            Ok(SessionRead::Behind)
        }
    }

    fn to_call(&self, shard: u16) -> call::Body {
        let mut call = self.get.to_call(shard);
        if let call::Body::Get(get) = &mut call {
            get.seen.clone_from(&self.seen);
        }
        call
    }

    fn encode(since: SessionRead) -> reply::Body {
        match since {
            SessionRead::Read(result) => GetKey::encode(result),
            SessionRead::Behind => reply::Body::Get(pb::GetReply {
                behind: true,
                ..Default::default()
            }),
        }
    }

    fn decode(reply: reply::Body) -> Option<SessionRead> {
        match reply {
            reply::Body::Get(pb::GetReply { behind: true, .. }) => Some(SessionRead::Behind),
            reply => GetKey::decode(reply).map(SessionRead::Read),
        }
    }
}

/// Reads a bucket's counters in a shard.
pub(super) struct GetBucketState<'a> {
    pub bucket: &'a [u8],
    /// True if expired keys are removed first, so that the counts are exact.
    pub exact: bool,
}

impl Operation for GetBucketState<'_> {
    type Output = pb::BucketState;
    const RETRYABLE: bool = true;

    async fn execute(&self, shard: &ShardHandle) -> Result<Self::Output, ShardError> {
        if self.exact {
            remove_expired(shard).await?;
        }
        Ok(shard.bucket(self.bucket).await?)
    }

    fn to_call(&self, shard: u16) -> call::Body {
        call::Body::Bucket(pb::BucketQuery {
            shard: u32::from(shard),
            bucket: Bytes::copy_from_slice(self.bucket),
            expire_first: self.exact,
        })
    }

    fn encode(state: Self::Output) -> reply::Body {
        reply::Body::Bucket(pb::BucketReply { state: Some(state) })
    }

    fn decode(reply: reply::Body) -> Option<Self::Output> {
        match reply {
            reply::Body::Bucket(reply) => Some(reply.state.unwrap_or_default()),
            _ => None,
        }
    }
}

/// Removes expired keys. That may be repeated, so an unknown outcome doesn't matter.
async fn remove_expired(shard: &ShardHandle) -> Result<(), ShardError> {
    match shard.expire().await {
        Ok(_) => Ok(()),
        Err(ProposeError::NotLeader { .. } | ProposeError::Unknown) => Err(ShardError::NotLeader),
    }
}

/// Checks whether a bucket holds larger keys or values than these.
pub(super) struct HasLarger<'a> {
    pub bucket: &'a [u8],
    pub key_bytes: usize,
    pub value_bytes: usize,
}

impl Operation for HasLarger<'_> {
    type Output = bool;
    const RETRYABLE: bool = true;

    async fn execute(&self, shard: &ShardHandle) -> Result<bool, ShardError> {
        let (bucket, now) = (self.bucket.to_vec(), shard.now());
        let (key_bytes, value_bytes) = (self.key_bytes, self.value_bytes);
        let scan =
            shard.read(move |view| view.has_larger_than(&bucket, key_bytes, value_bytes, now));
        Ok(scan.await?)
    }

    fn to_call(&self, shard: u16) -> call::Body {
        call::Body::Larger(pb::LargerQuery {
            shard: u32::from(shard),
            bucket: Bytes::copy_from_slice(self.bucket),
            key_bytes: self.key_bytes as u64,
            value_bytes: self.value_bytes as u64,
        })
    }

    fn encode(larger: bool) -> reply::Body {
        reply::Body::Larger(pb::LargerReply { larger })
    }

    fn decode(reply: reply::Body) -> Option<bool> {
        match reply {
            reply::Body::Larger(reply) => Some(reply.larger),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_results_survive_encoding() {
        let version = Version { time: 7, region: 2 };
        let entry = StoredValue {
            value: Bytes::from_static(b"value"),
            content_type: Bytes::from_static(b"text/x"),
            version,
            expires_at: Some(9),
            metadata: Bytes::from_static(b"{\"a\":1}"),
        };
        for result in [
            ReadResult::Live(entry),
            ReadResult::Deleted(version),
            ReadResult::Missing,
        ] {
            let decoded = GetKey::decode(GetKey::encode(result.clone()));
            assert_eq!(decoded, Some(result.clone()));
            let decoded = SessionGet::decode(SessionGet::encode(SessionRead::Read(result.clone())));
            assert!(matches!(decoded, Some(SessionRead::Read(read)) if read == result));
        }
        let behind = SessionGet::decode(SessionGet::encode(SessionRead::Behind));
        assert!(matches!(behind, Some(SessionRead::Behind)));
    }
}
