//! The shards of this node, and what all of them together know of a bucket.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use futures_util::future::try_join_all;

use super::errors::{KeyError, Unavailable};
use crate::shard::{ReadError, ShardHandle, WriteError, shard_of};
use crate::types::BucketId;

/// All shards, by number.
#[derive(Clone)]
pub struct Shards {
    handles: Arc<[Arc<ShardHandle>]>,
}

impl Shards {
    /// Shards 0, 1, 2 ...
    pub fn new(handles: Vec<Arc<ShardHandle>>) -> Self {
        Self {
            handles: handles.into(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.handles.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.handles.is_empty()
    }

    /// The shard of a key.
    pub fn of(&self, bucket: &BucketId, key: &[u8]) -> &Arc<ShardHandle> {
        let count = u16::try_from(self.handles.len()).unwrap_or(u16::MAX);
        &self.handles[usize::from(shard_of(bucket.as_bytes(), key, count))]
    }

    /// The shard that keeps a bucket's own counters.
    pub fn home(&self, bucket: &BucketId) -> &Arc<ShardHandle> {
        self.of(bucket, b"")
    }

    /// Keys of a bucket, over all shards.
    pub async fn count(&self, bucket: &BucketId) -> Result<u64, KeyError> {
        Ok(self
            .states(bucket)
            .await?
            .iter()
            .map(|state| state.keys)
            .sum())
    }

    /// A bucket's state in each shard.
    pub async fn states(&self, bucket: &BucketId) -> Result<Vec<pb::BucketState>, KeyError> {
        let reads = self.iter().map(|shard| async move {
            shard
                .bucket(bucket.as_bytes())
                .await
                .map_err(|error| read_error(shard, error))
        });
        try_join_all(reads).await
    }

    /// Removes what has expired from all shards, so that counts are exact.
    pub async fn expire(&self) -> Result<(), KeyError> {
        let expire = self.iter().map(|shard| async move {
            shard
                .expire()
                .await
                .map_err(|_| KeyError::Unavailable(no_leader(shard)))
        });
        try_join_all(expire).await.map(|_| ())
    }
}

fn no_leader(shard: &ShardHandle) -> Unavailable {
    Unavailable::NoLeader {
        group: shard.group().id().to_string(),
    }
}

/// A shard's read error as the service's.
pub fn read_error(shard: &ShardHandle, error: ReadError) -> KeyError {
    match error {
        ReadError::NotLeader => no_leader(shard).into(),
        ReadError::Overloaded => Unavailable::Overloaded {
            queue: "disk reads",
        }
        .into(),
        ReadError::Storage(error) => KeyError::Storage(error.into()),
    }
}

/// A shard's write error as the service's.
pub fn write_error(shard: &ShardHandle, error: &WriteError) -> KeyError {
    match error {
        WriteError::NotLeader => no_leader(shard).into(),
        WriteError::Overloaded => Unavailable::Overloaded { queue: "writes" }.into(),
        WriteError::Stopping => Unavailable::Stopping.into(),
        WriteError::Unknown => KeyError::UnknownOutcome,
    }
}
