//! Deleting buckets.
//!
//! A bucket is gone with one entry of the metadata: no request finds it from then on. Its rows are
//! dropped from the shards afterwards, in the background, and again after a restart, until every
//! shard has done it; only then is it forgotten.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{
    self as pb, call, meta_command::Kind as Command, reply, shard_command::Kind,
};
use futures_util::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, key_error};
use super::errors::DirectoryError;
use super::writes::Propose;
use crate::meta::Bucket;
use crate::rpc::Lane;
use crate::types::{AccountId, BucketId, Nanos};

/// Deleted buckets are looked for this often, if nothing else calls for it.
const SWEEP: Duration = Duration::from_secs(2);
/// Time for a node to say what it has published.
const ASK: Duration = Duration::from_millis(500);
/// A published number of keys confirms a deletion for two of the longest publishing intervals.
const CONFIRMS_FOR: Duration = Duration::from_secs(20);

impl Directory {
    /// Deletes a bucket of `account`. `confirm` must be the number of its keys, live or as
    /// published lately.
    pub async fn delete_bucket(
        &self,
        account: AccountId,
        id: BucketId,
        confirm: u64,
    ) -> Result<(), DirectoryError> {
        self.check_readable().await?;
        let bucket = self.owned(account, &id)?;
        let keys = self.inner.shards.count(&id, true).await;
        let keys = keys.map_err(key_error)?;
        let since = self
            .inner
            .clock
            .now()
            .saturating_sub(CONFIRMS_FOR.as_nanos() as u64);
        if confirm != keys && !self.was_published(&bucket, confirm, since).await {
            return Err(DirectoryError::ConfirmMismatch { keys });
        }
        let delete = pb::DeleteBucket {
            bucket: Bytes::copy_from_slice(id.as_bytes()),
        };
        let deleted = self.propose(Command::DeleteBucket(delete)).await?;
        deleted.map_err(|_| DirectoryError::UnknownBucket)?;
        self.inner.metadata.spread().await;
        self.inner.deleted.notify_one();
        Ok(())
    }

    /// Whether any node has published a number of keys lately.
    async fn was_published(&self, bucket: &Bucket, keys: u64, since: Nanos) -> bool {
        if bucket.usage.was_published(keys, since) {
            return true;
        }
        let peers = self.inner.shards.peers();
        let asked = peers.near().into_iter().map(|node| {
            let body = call::Body::RoomQuery(pb::RoomQuery {
                bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
                recall: false,
            });
            peers.call(node, Lane::Keys, body, ASK)
        });
        let answers = join_all(asked).await;
        answers.into_iter().flatten().any(|answer| match answer {
            reply::Body::RoomState(state) => {
                let mut published = state.published.iter();
                published.any(|count| count.keys == keys && count.at > since)
            }
            _ => false,
        })
    }

    /// Drops the rows of deleted buckets in this region while this node leads its first shard, until
    /// `stop`.
    pub async fn sweep(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let dropping = self.inner.catalog.dropping(self.inner.settings.region);
                let leads = self.inner.shards.local(0).is_some_and(|it| it.serves());
                if !dropping.is_empty()
                    && leads
                    && let Err(error) = self.drop_rows(&dropping).await
                {
                    tracing::debug!(?error, "drop rows of deleted buckets: later");
                }
                let _ = tokio::time::timeout(SWEEP, self.inner.deleted.notified()).await;
            }
        })
        .await;
    }

    async fn drop_rows(&self, buckets: &[BucketId]) -> Result<(), DirectoryError> {
        for id in buckets {
            let bucket = Bytes::copy_from_slice(id.as_bytes());
            let drop = Propose(Kind::DropBucket(pb::DropBucket {
                bucket: bucket.clone(),
            }));
            let shards = &self.inner.shards;
            let drops = shards.numbers().map(|shard| shards.run(shard, &drop));
            try_join_all(drops).await.map_err(key_error)?;
            let region = self.inner.settings.region;
            let dropped = Command::BucketDropped(pb::BucketDropped { bucket, region });
            // Refused if it was forgotten meanwhile.
            let _ = self.propose(dropped).await?;
        }
        Ok(())
    }
}
