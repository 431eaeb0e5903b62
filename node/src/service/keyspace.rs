//! Operations on keys: gets, puts, deletes and lists them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::errors::{KeyError, Unavailable};
use super::list_keys::{ListKeys, needs_list_level};
use super::listing::{self, Listing};
use super::operation::ShardError;
use super::packed_write;
use super::reads::{GetKey, SessionGet, SessionRead};
use super::session;
use super::session::SessionToken;
use super::shards::{Shards, no_leader};
use super::writes::{WriteKey, needs_metadata_level};
use crate::meta::{Bucket, Catalog};
use crate::shard::KEY_METADATA_LEVEL;
use crate::types::{BucketId, KeyWrite, ListQuery, ReadResult, WriteReceipt};

/// Maximum number of lists with values that are read concurrently. Each takes about a MiB, or one
/// value of each shard, if those are larger.
const MAX_VALUE_LISTS: usize = 8;

/// Keys of all buckets. Cheap to clone.
#[derive(Clone)]
pub struct Keyspace {
    shards: Shards,
    catalog: Arc<Catalog>,
    timeout: Duration,
    session_timeout: Duration,
    value_lists: Arc<Semaphore>,
}

impl Keyspace {
    /// Creates the keyspace over `shards`. A write's outcome is waited for for up to `timeout`, and
    /// what a client has seen in other regions for up to `session_timeout`.
    pub fn new(
        shards: Shards,
        catalog: Arc<Catalog>,
        timeout: Duration,
        session_timeout: Duration,
    ) -> Self {
        Self {
            shards,
            catalog,
            timeout,
            session_timeout,
            value_lists: Arc::new(Semaphore::new(MAX_VALUE_LISTS)),
        }
    }

    /// Returns the shards.
    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Returns the time within which a write's outcome is waited for.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
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
        self.get_when_seen(shard, SessionGet { get, seen }).await
    }

    async fn get_when_seen(&self, shard: u16, get: SessionGet<'_>) -> Result<ReadResult, KeyError> {
        let deadline = Instant::now() + self.session_timeout;
        loop {
            match self.shards.run(shard, &get).await? {
                SessionRead::Read(result) => return Ok(result),
                SessionRead::Behind if Instant::now() < deadline => {}
                SessionRead::Behind => return Err(Unavailable::Behind.into()),
            }
        }
    }

    /// Waits until each shard has all that `session` has seen in it. Fails with
    /// [`Unavailable::Behind`] if one doesn't within the session timeout. `bucket` may be any.
    pub async fn await_session_everywhere(
        &self,
        bucket: &BucketId,
        session: &SessionToken,
    ) -> Result<(), KeyError> {
        for shard in self.shards.numbers() {
            let seen = session.seen_of_shard(shard);
            if !seen.is_empty() {
                // Any read tells, also of a key that belongs to another shard.
                let (bucket, key) = (bucket.as_bytes(), &b"k"[..]);
                let get = GetKey { bucket, key };
                self.get_when_seen(shard, SessionGet { get, seen }).await?;
            }
        }
        Ok(())
    }

    /// Waits until a key's shard has all that the client has seen, as a read in its session would.
    ///
    /// A touch needs that: it gives the value that the region has a new version, which wins over any
    /// newer value that is still under way to it.
    pub async fn await_session(
        &self,
        bucket: &Bucket,
        key: &[u8],
        session: &SessionToken,
    ) -> Result<(), KeyError> {
        let shard = self.shards.shard_of(&bucket.id, key);
        if session.seen_of_shard(shard).is_empty() {
            return Ok(());
        }
        self.get_in_session(bucket, key, session).await.map(|_| ())
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

    /// Writes a key. The write is on disk at a majority of its replicas when this returns.
    pub async fn write(
        &self,
        bucket: &Arc<Bucket>,
        key: Bytes,
        write: KeyWrite,
    ) -> Result<WriteReceipt, KeyError> {
        let shard = self.shards.shard_of(&bucket.id, &key);
        let write = packed_write::pack(bucket, &key, write);
        if needs_metadata_level(&write) {
            self.check_level(KEY_METADATA_LEVEL)?;
        }
        let write = WriteKey {
            shards: &self.shards,
            bucket,
            write,
            timeout: self.timeout,
        };
        self.shards.run(shard, &write).await?.into_receipt()
    }

    /// Fails unless all nodes of the cluster support a feature level: this node has applied the
    /// metadata's step to it, which is proposed when they do, and never taken back.
    pub fn check_level(&self, level: u32) -> Result<(), Unavailable> {
        if self.catalog.header().level >= level {
            Ok(())
        } else {
            Err(Unavailable::Upgrading)
        }
    }

    /// Lists what matches a query over all shards, or the first part of it.
    pub async fn list(&self, bucket: &Bucket, query: ListQuery) -> Result<Listing, KeyError> {
        if needs_list_level(&query) {
            self.check_level(KEY_METADATA_LEVEL)?;
        }
        let _permit = if query.with_values {
            Some(self.value_list_permit().await?)
        } else {
            None
        };
        let (shards, bucket) = (&self.shards, bucket.id.as_bytes());
        let fetch = |shard: u16, query: ListQuery| async move {
            let query = &query;
            shards.run(shard, &ListKeys { bucket, query }).await
        };
        listing::list(shards.numbers(), query, fetch).await
    }

    /// Waits for a permit to list values.
    async fn value_list_permit(&self) -> Result<SemaphorePermit<'_>, Unavailable> {
        let permit = tokio::time::timeout(self.timeout, self.value_lists.acquire()).await;
        let queue = "lists with values";
        permit
            .ok()
            .and_then(Result::ok)
            .ok_or(Unavailable::Overloaded { queue })
    }
}
