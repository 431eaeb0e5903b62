//! Reclaims the disk space of dropped buckets, on each node for itself.
//!
//! One range deletion in each shard deletes a bucket's rows; the files that held nothing else can
//! be removed at once. The removal of a file is durable immediately, the range deletion only once
//! it is flushed: so files are removed after this node's replicas have applied the drop, and
//! flushed it. In the other order, a crash in between would leave a state that is not that after
//! any entry.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::directory::Directory;
use crate::shard::ShardHandle;
use crate::types::BucketId;

/// Interval at which dropped buckets are looked for.
const RECLAIM_INTERVAL: Duration = Duration::from_secs(2);

impl Directory {
    /// Reclaims the disk space of dropped buckets, until `stop`.
    pub async fn run_space_reclaim(self, stop: CancellationToken) {
        let mut pending: Vec<BucketId> = Vec::new();
        let mut interval = tokio::time::interval(RECLAIM_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            pending.extend(self.inner.catalog.take_reclaimable());
            let shards: Vec<Arc<ShardHandle>> = self.inner.shards.iter().cloned().collect();
            let ready = {
                let is_ready = |id: &BucketId| is_dropped(&shards, id);
                let (ready, not_ready) = pending.drain(..).partition(is_ready);
                pending = not_ready;
                ready
            };
            if !ready.is_empty() {
                reclaim_space(shards, ready).await;
            }
        }
    }
}

/// Returns whether all replicas of this node have applied the drop of a bucket.
fn is_dropped(shards: &[Arc<ShardHandle>], id: &BucketId) -> bool {
    shards.iter().all(|shard| {
        !shard.has_replica()
            || shard
                .view()
                .bucket(id.as_bytes())
                .is_ok_and(|state| state.dropped)
    })
}

async fn reclaim_space(shards: Vec<Arc<ShardHandle>>, buckets: Vec<BucketId>) {
    let reclaim = move || {
        shards
            .iter()
            .try_for_each(|shard| shard.view().reclaim(&buckets))
    };
    match tokio::task::spawn_blocking(reclaim).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "reclaiming the space of dropped buckets failed"),
        Err(error) => tracing::error!(%error, "reclaiming the space of dropped buckets failed"),
    }
}
