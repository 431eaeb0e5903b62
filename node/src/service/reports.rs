//! Reports reads of buckets, which are counted in memory, to the replicated state at an interval,
//! and expires accounts that have had no bucket for a long time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, meta_command, shard_command};
use tokio_util::sync::CancellationToken;

use super::directory::Directory;
use super::errors::KeyError;
use super::writes::ProposeCommand;
use crate::meta::Bucket;

/// Maximum number of buckets in one report.
const MAX_REPORT_BUCKETS: usize = 1000;
/// Interval at which idle accounts are looked for.
const ACCOUNT_SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Maximum number of accounts that one log entry expires.
const MAX_EXPIRED_ACCOUNTS: u32 = 1000;

/// A bucket, with its hits and misses.
type BucketReads = (Arc<Bucket>, (u64, u64));

impl Directory {
    /// Reports reads every `stats_interval` until `stop`. Reads after the last report are left to
    /// [`Directory::report_reads`], while the shards still run.
    pub async fn run_read_reports(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(self.inner.settings.stats_interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            self.report_reads().await;
        }
    }

    /// Reports all reads that were not reported yet.
    pub async fn report_reads(&self) {
        let mut by_shard: HashMap<u16, Vec<BucketReads>> = HashMap::new();
        for bucket in self
            .inner
            .catalog
            .buckets_where(|bucket| bucket.usage.reads() != (0, 0))
        {
            let home = self.inner.shards.home_shard(&bucket.id);
            let reads = bucket.usage.reads();
            by_shard.entry(home).or_default().push((bucket, reads));
        }
        for reads in by_shard.into_values() {
            for batch in reads.chunks(MAX_REPORT_BUCKETS) {
                self.report_batch(batch).await;
            }
        }
    }

    /// Reports the reads of buckets that have the same home shard.
    async fn report_batch(&self, batch: &[BucketReads]) {
        let Some((first, _)) = batch.first() else {
            return;
        };
        let counts = batch.iter().map(|(bucket, (hits, misses))| pb::ReadCount {
            bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
            hits: *hits,
            misses: *misses,
        });
        let counts = pb::CountReads {
            counts: counts.collect(),
        };
        let home = self.inner.shards.home_shard(&first.id);
        let report = ProposeCommand(shard_command::Kind::CountReads(counts));
        let result = self.inner.shards.run(home, &report).await;
        // With an unknown outcome the reads may be lost, rather than counted twice.
        if !matches!(result, Err(KeyError::Unavailable(_))) {
            for (bucket, reads) in batch {
                bucket.usage.subtract_reported(*reads);
            }
        }
    }

    /// Expires accounts that have had no bucket for `account_idle_ttl`, until `stop`, while this
    /// node's clock is in bounds.
    pub async fn expire_accounts(
        self,
        clock_ok: impl Fn() -> bool + Send,
        stop: CancellationToken,
    ) {
        let ttl = self.inner.settings.account_idle_ttl;
        if ttl.is_zero() {
            return;
        }
        let ttl = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        let mut interval = tokio::time::interval(ACCOUNT_SWEEP_INTERVAL);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            if !self.inner.metadata.is_leader() || !clock_ok() {
                continue;
            }
            let before = self.inner.clock.now().saturating_sub(ttl);
            while self.inner.catalog.has_idle_account(before) {
                let limit = MAX_EXPIRED_ACCOUNTS;
                let expire = pb::ExpireAccounts { before, limit };
                let command = meta_command::Kind::ExpireAccounts(expire);
                if self.propose(command).await.is_err() {
                    // Accounts that can't be expired now are expired by the next sweep.
                    break;
                }
            }
        }
    }
}
