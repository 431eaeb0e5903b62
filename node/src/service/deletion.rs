//! Deleting buckets.
//!
//! A bucket is gone with one entry of the metadata: no request finds it from then on. Its rows are
//! dropped from the shards afterwards, in the background, and again after a restart, until every
//! shard has done it; only then is it forgotten.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command, shard_command::Kind};
use futures_util::future::try_join_all;
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, key_error};
use super::errors::DirectoryError;
use super::shards::read_error;
use crate::types::{AccountId, BucketId};

/// Deleted buckets are looked for this often, if nothing else calls for it.
const SWEEP: Duration = Duration::from_secs(10);
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
        let bucket = self.owned(account, &id)?;
        self.inner.shards.expire().await.map_err(key_error)?;
        let keys = self.inner.shards.count(&id).await.map_err(key_error)?;
        let since = self
            .inner
            .clock
            .now()
            .saturating_sub(CONFIRMS_FOR.as_nanos() as u64);
        if confirm != keys && !bucket.usage.was_published(confirm, since) {
            return Err(DirectoryError::ConfirmMismatch { keys });
        }
        let delete = pb::DeleteBucket {
            bucket: Bytes::copy_from_slice(id.as_bytes()),
        };
        let deleted = self.propose(Command::DeleteBucket(delete)).await?;
        deleted.map_err(|_| DirectoryError::UnknownBucket)?;
        self.inner.deleted.notify_one();
        Ok(())
    }

    /// Drops the rows of deleted buckets, until `stop`.
    pub async fn sweep(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                let dropping = self.inner.catalog.dropping();
                if !dropping.is_empty()
                    && let Err(error) = self.drop_rows(&dropping).await
                {
                    tracing::debug!(?error, "drop rows of deleted buckets: later");
                }
                let _ = tokio::time::timeout(SWEEP, self.inner.deleted.notified()).await;
            }
        })
        .await;
    }

    /// Drops, flushes, and only then gives files back: a file goes at once and for good, the drop
    /// only once it is flushed. The other way round, a crash between would leave a state that is
    /// not that after any entry.
    async fn drop_rows(&self, buckets: &[BucketId]) -> Result<(), DirectoryError> {
        for id in buckets {
            let drops = self.inner.shards.iter().map(|shard| {
                let bucket = Bytes::copy_from_slice(id.as_bytes());
                shard.propose(Kind::DropBucket(pb::DropBucket { bucket }))
            });
            let dropped = try_join_all(drops).await;
            dropped.map_err(|_| DirectoryError::UnknownOutcome)?;
        }
        for shard in self.inner.shards.iter() {
            let ids = buckets.to_vec();
            let reclaimed = shard.read(move |view| view.reclaim(&ids)).await;
            reclaimed.map_err(|error| key_error(read_error(shard, error)))?;
        }
        for id in buckets {
            let bucket = Bytes::copy_from_slice(id.as_bytes());
            let dropped = Command::BucketDropped(pb::BucketDropped { bucket });
            // Refused if it was forgotten meanwhile.
            let _ = self.propose(dropped).await?;
        }
        Ok(())
    }
}
