//! Deleting buckets.
//!
//! A bucket is gone with one entry of the metadata: no request finds it from then on. Its rows are
//! dropped from the shards afterwards, in the background, and again after a restart, until every
//! shard has done it; only then is it forgotten.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command, shard_command};
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, key_error};
use super::errors::DirectoryError;
use crate::meta::Bucket;
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
                for bucket in self.inner.catalog.buckets_where(|bucket| bucket.dropping) {
                    if let Err(error) = self.drop_rows(&bucket).await {
                        tracing::debug!(?error, bucket = ?bucket.id, "drop bucket: later");
                    }
                }
                let _ = tokio::time::timeout(SWEEP, self.inner.deleted.notified()).await;
            }
        })
        .await;
    }

    async fn drop_rows(&self, bucket: &Bucket) -> Result<(), DirectoryError> {
        let id = Bytes::copy_from_slice(bucket.id.as_bytes());
        for shard in self.inner.shards.iter() {
            let drop = pb::DropBucket { bucket: id.clone() };
            let dropped = shard.propose(shard_command::Kind::DropBucket(drop)).await;
            dropped.map_err(|_| DirectoryError::UnknownOutcome)?;
            let name = id.clone();
            if let Err(error) = shard.read(move |view| view.reclaim(&name)).await {
                // The space comes back by compaction as well, only later.
                tracing::warn!(%error, "reclaim files of a dropped bucket");
            }
        }
        let dropped = Command::BucketDropped(pb::BucketDropped { bucket: id });
        // Refused if it was forgotten meanwhile.
        self.propose(dropped).await.map(|_| ())
    }
}
