//! Lists an account's buckets, with the counts of their keys and reads.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;

use super::directory::{Directory, from_key_error};
use super::errors::{DirectoryError, KeyError};
use super::reads::GetBucketState;
use crate::meta::Bucket;
use crate::rpc::StreamKind;
use crate::types::{AccountId, BucketId, BucketSummary, Nanos};

/// Number of buckets after which a listing yields to other requests.
const BUCKETS_PER_YIELD: usize = 32;

/// Maximum number of a list's buckets that are summarized concurrently.
const MAX_CONCURRENT_SUMMARIES: usize = 64;

/// Timeout of a query for the reads that another region has counted.
const QUERY_TIMEOUT: Duration = Duration::from_millis(800);

/// Regions that didn't answer while a list of buckets was made.
#[derive(Debug, Default)]
struct UnresponsiveRegions(Mutex<HashSet<u32>>);

/// Place of a bucket in its account's list. No creation or deletion of another bucket changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketPosition {
    /// Time of the bucket's creation.
    pub created_at: Nanos,
    /// Name of the bucket.
    pub id: BucketId,
}

impl BucketPosition {
    fn of(bucket: &Bucket) -> Self {
        Self {
            created_at: bucket.created_at,
            id: bucket.id,
        }
    }
}

/// Part of an account's list of buckets.
#[derive(Debug)]
pub struct BucketListing {
    /// Buckets, in the order of their creation.
    pub buckets: Vec<BucketSummary>,
    /// Place behind which the list goes on; `None` at its end.
    pub next: Option<BucketPosition>,
}

impl Directory {
    /// Lists at most `limit` buckets of an account, in the order of their creation, behind `after`.
    pub async fn list_buckets(
        &self,
        account: AccountId,
        after: Option<BucketPosition>,
        limit: usize,
    ) -> Result<BucketListing, DirectoryError> {
        self.barrier().await?;
        let mut buckets = self.inner.catalog.buckets_of(&account);
        buckets.retain(|bucket| after.is_none_or(|after| BucketPosition::of(bucket) > after));
        buckets.sort_by_key(|bucket| BucketPosition::of(bucket));
        let has_more = buckets.len() > limit;
        buckets.truncate(limit);
        let last = buckets.last().filter(|_| has_more);
        let next = last.map(|bucket| BucketPosition::of(bucket));
        let unresponsive = &UnresponsiveRegions::default();
        let mut summaries = Vec::with_capacity(buckets.len());
        let pending = buckets
            .into_iter()
            .map(|bucket| async move { self.summarize(&bucket, unresponsive).await });
        // Each asks other regions: sequentially, a long list would take that many round trips.
        let mut pending = stream::iter(pending).buffered(MAX_CONCURRENT_SUMMARIES);
        while let Some(summary) = pending.next().await {
            summaries.push(summary?);
            if summaries.len() % BUCKETS_PER_YIELD == 0 {
                // Most summaries come from memory, without an await that lets others run.
                tokio::task::yield_now().await;
            }
        }
        Ok(BucketListing {
            buckets: summaries,
            next,
        })
    }

    async fn summarize(
        &self,
        bucket: &Bucket,
        unresponsive: &UnresponsiveRegions,
    ) -> Result<BucketSummary, DirectoryError> {
        let elsewhere = self.other_region_reads(bucket, unresponsive);
        let (own_region, elsewhere) = futures_util::join!(self.own_region_reads(bucket), elsewhere);
        let (hits, misses) = own_region.map_err(from_key_error)?;
        Ok(BucketSummary {
            id: bucket.id,
            access: bucket.access,
            plan: bucket.plan,
            created_at: bucket.created_at,
            comment: bucket.comment.clone(),
            default_ttl: bucket.default_ttl,
            estimated_keys: self.published_key_count(bucket).await?,
            key_get_success: hits + elsewhere.0,
            key_get_failed: misses + elsewhere.1,
        })
    }

    /// Returns the published number of keys; counts them anew if that is too old.
    async fn published_key_count(&self, bucket: &Bucket) -> Result<u64, DirectoryError> {
        let now = self.inner.clock.now();
        let interval = u64::try_from(self.inner.settings.stats_interval.as_nanos());
        let since = now.saturating_sub(interval.unwrap_or(u64::MAX));
        if let Some(keys) = bucket.usage.published_since(since) {
            return Ok(keys);
        }
        let keys = self
            .inner
            .shards
            .count_keys(&bucket.id, false)
            .await
            .map_err(from_key_error)?;
        Ok(bucket.usage.publish(keys, now, since))
    }

    /// Returns the hits and misses of a bucket that this region has counted: those that were
    /// reported, and those of this node that weren't yet.
    pub(super) async fn own_region_reads(&self, bucket: &Bucket) -> Result<(u64, u64), KeyError> {
        // Read before the reported counts: a read that is reported in between is counted twice, not
        // lost.
        let (hits, misses) = bucket.usage.reads();
        let shards = &self.inner.shards;
        let counts = GetBucketState {
            bucket: bucket.id.as_bytes(),
            exact: false,
        };
        let home = shards.run(shards.home_shard(&bucket.id), &counts).await?;
        Ok((home.hits + hits, home.misses + misses))
    }

    /// Returns the hits and misses of all other regions that can be reached. A region that doesn't
    /// answer is added to `unresponsive`, and not asked for the next bucket of a list.
    async fn other_region_reads(
        &self,
        bucket: &Bucket,
        unresponsive: &UnresponsiveRegions,
    ) -> (u64, u64) {
        let topology = self.inner.catalog.topology();
        let own_region = self.inner.settings.region;
        let peers = self.inner.shards.peers();
        let others = topology
            .region_names()
            .filter(|(region, _)| *region != own_region);
        let others = others.filter(|(region, _)| !unresponsive.0.lock().contains(region));
        let queries = others.map(|(region, _)| {
            let mut nodes = topology.nodes_of(region).map(|node| node.id);
            let node = nodes.find(|node| {
                let connected = peers.watch_connection(*node, StreamKind::Forwarded);
                connected.is_some_and(|connected| *connected.borrow())
            });
            let body = call::Body::Reads(pb::ReadsQuery {
                bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
            });
            async move {
                match peers
                    .call(node?, StreamKind::Forwarded, body, QUERY_TIMEOUT)
                    .await
                {
                    Ok(reply::Body::Reads(reads)) => Some((reads.hits, reads.misses)),
                    _ => {
                        unresponsive.0.lock().insert(region);
                        None
                    }
                }
            }
        });
        let counts = join_all(queries).await.into_iter().flatten();
        counts.fold((0, 0), |sum, reads| (sum.0 + reads.0, sum.1 + reads.1))
    }
}
