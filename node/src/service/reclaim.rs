//! Gives back the space of dropped buckets, on each node for itself.
//!
//! A bucket's rows go with one range deletion in each shard; the files that held nothing else can
//! go at once. A file goes for good, the deletion only once it is flushed: so files are removed
//! after this node's replicas have applied the drop, and flushed it. The other way round, a crash
//! between would leave a state that is not that after any entry.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::directory::Directory;
use crate::shard::ShardHandle;
use crate::types::BucketId;

/// How often dropped buckets are looked for.
const LOOK: Duration = Duration::from_secs(2);

impl Directory {
    /// Gives back the space of dropped buckets, until `stop`.
    pub async fn reclaim(self, stop: CancellationToken) {
        let mut waiting: Vec<BucketId> = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            waiting.extend(self.inner.catalog.take_forgotten());
            let shards: Vec<Arc<ShardHandle>> = self.inner.shards.iter().cloned().collect();
            let ready = {
                let dropped = |id: &BucketId| is_dropped(&shards, id);
                let (ready, later) = waiting.drain(..).partition(dropped);
                waiting = later;
                ready
            };
            if !ready.is_empty() {
                give_back(shards, ready).await;
            }
        }
    }
}

/// Whether all replicas of this node have applied the drop of a bucket.
fn is_dropped(shards: &[Arc<ShardHandle>], id: &BucketId) -> bool {
    shards.iter().all(|shard| {
        !shard.has_replica()
            || shard
                .view()
                .bucket(id.as_bytes())
                .is_ok_and(|state| state.dropped)
    })
}

async fn give_back(shards: Vec<Arc<ShardHandle>>, buckets: Vec<BucketId>) {
    let reclaim = move || {
        shards
            .iter()
            .try_for_each(|shard| shard.view().reclaim(&buckets))
    };
    match tokio::task::spawn_blocking(reclaim).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "give back the space of dropped buckets"),
        Err(error) => tracing::error!(%error, "give back the space of dropped buckets"),
    }
}
