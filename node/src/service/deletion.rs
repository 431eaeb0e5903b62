//! Deleting buckets.
//!
//! One entry of the metadata deletes a bucket: no request finds it from then on. Its rows are
//! dropped from the shards afterwards, in the background, and again after a restart, until every
//! shard has dropped them; only then does the metadata forget the bucket.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{
    self as pb, call, meta_command::Kind as Command, reply, shard_command::Kind,
};
use futures_util::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, from_key_error};
use super::errors::DirectoryError;
use super::writes::ProposeCommand;
use crate::meta::Bucket;
use crate::rpc::StreamKind;
use crate::types::{AccountId, BucketId, Nanos};

/// Interval at which deleted buckets are looked for, if no deletion triggers it earlier.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of a query for the key counts that a node has published.
const QUERY_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for which a published number of keys confirms a deletion: two of the longest publishing
/// intervals.
const CONFIRM_WINDOW: Duration = Duration::from_secs(20);

impl Directory {
    /// Deletes a bucket of `account`. `confirm` must be the number of its keys, as counted now or,
    /// unless it is 0, as published lately.
    ///
    /// Each shard's leader counts, so all writes count that this region has acknowledged before the
    /// call. Those that it acknowledges from the count to the deletion's commit don't, nor do those
    /// of other regions that have not arrived here: they are deleted with the bucket.
    pub async fn delete_bucket(
        &self,
        account: AccountId,
        id: BucketId,
        confirm: u64,
    ) -> Result<(), DirectoryError> {
        self.barrier().await?;
        let bucket = self.owned_bucket(account, &id)?;
        let keys = self.inner.shards.count_keys(&id, true).await;
        let keys = keys.map_err(from_key_error)?;
        let is_confirmed = confirm == keys || self.was_published_lately(&bucket, confirm).await;
        if !is_confirmed {
            return Err(DirectoryError::ConfirmMismatch { keys });
        }
        let delete = pb::DeleteBucket {
            bucket: Bytes::copy_from_slice(id.as_bytes()),
        };
        let deleted = self.propose(Command::DeleteBucket(delete)).await?;
        deleted.map_err(|_| DirectoryError::UnknownBucket)?;
        self.inner.metadata.await_applied_on_peers().await;
        self.inner.bucket_deleted.notify_one();
        Ok(())
    }

    /// Returns whether any node has lately published this number of keys, which isn't 0: whoever
    /// confirms 0 means that nothing is lost, and the bucket may have got keys since.
    async fn was_published_lately(&self, bucket: &Bucket, keys: u64) -> bool {
        if keys == 0 {
            return false;
        }
        let window = CONFIRM_WINDOW.as_nanos() as Nanos;
        let since = self.inner.clock.now().saturating_sub(window);
        if bucket.usage.was_published(keys, since) {
            return true;
        }
        let peers = self.inner.shards.peers();
        let queries = peers.same_region().into_iter().map(|node| {
            let body = call::Body::QuotaQuery(pb::QuotaQuery {
                bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
                recall: false,
            });
            peers.call(node, StreamKind::Forwarded, body, QUERY_TIMEOUT)
        });
        let replies = join_all(queries).await;
        replies.into_iter().flatten().any(|reply| match reply {
            reply::Body::QuotaState(state) => {
                let mut published = state.published.iter();
                published.any(|count| count.keys == keys && count.at > since)
            }
            _ => false,
        })
    }

    /// Drops the rows of deleted buckets in this region while this node leads the region's first
    /// shard, until `stop`.
    pub async fn sweep_deleted_buckets(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let buckets = self
                    .inner
                    .catalog
                    .buckets_to_drop(self.inner.settings.region);
                let first_shard = self.inner.shards.local(0);
                let is_leader = first_shard.is_some_and(|shard| shard.is_serving());
                if !buckets.is_empty()
                    && is_leader
                    && let Err(error) = self.drop_rows(&buckets).await
                {
                    tracing::debug!(
                        ?error,
                        delay = ?SWEEP_INTERVAL,
                        "dropping rows of deleted buckets failed, retrying"
                    );
                }
                let _ = tokio::time::timeout(SWEEP_INTERVAL, self.inner.bucket_deleted.notified())
                    .await;
            }
        })
        .await;
    }

    async fn drop_rows(&self, buckets: &[BucketId]) -> Result<(), DirectoryError> {
        for id in buckets {
            let bucket = Bytes::copy_from_slice(id.as_bytes());
            let drop = ProposeCommand(Kind::DropBucket(pb::DropBucket {
                bucket: bucket.clone(),
            }));
            let shards = &self.inner.shards;
            let drops = shards.numbers().map(|shard| shards.run(shard, &drop));
            try_join_all(drops).await.map_err(from_key_error)?;
            let region = self.inner.settings.region;
            let dropped = Command::BucketDropped(pb::BucketDropped { bucket, region });
            // Refused if the metadata has forgotten the bucket meanwhile.
            let _ = self.propose(dropped).await?;
        }
        Ok(())
    }
}
