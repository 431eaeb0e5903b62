//! What is counted in memory and reported to the replicated state now and then: reads of buckets.
//! And accounts that were left empty for long, which go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, call, meta_command, reply, shard_command};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::directory::Directory;
use super::errors::KeyError;
use super::reads::Counts;
use super::writes::Propose;
use crate::meta::Bucket;
use crate::rpc::Lane;

/// Buckets in one report.
const REPORT_LIMIT: usize = 1000;
/// How often idle accounts are looked for.
const ACCOUNT_SWEEP: Duration = Duration::from_secs(3600);
/// Accounts that one entry removes at most.
const ACCOUNT_LIMIT: u32 = 1000;

/// A bucket, with its hits and misses.
type Report = (Arc<Bucket>, (u64, u64));

/// Time for another region to say what it has counted.
const ASK: Duration = Duration::from_millis(800);

/// Regions that gave no answer while a list was made.
#[derive(Debug, Default)]
pub(super) struct Silent(Mutex<HashSet<u32>>);

impl Directory {
    /// Reads of a bucket that this region has counted, found and not found: those that were
    /// reported, and those of this node.
    pub(super) async fn reads_here(&self, bucket: &Bucket) -> Result<(u64, u64), KeyError> {
        // Before what was reported: a read that is reported between is counted twice, not lost.
        let (hits, misses) = bucket.usage.reads();
        let shards = &self.inner.shards;
        let counts = Counts {
            bucket: bucket.id.as_bytes(),
            exact: false,
        };
        let home = shards.run(shards.home(&bucket.id), &counts).await?;
        Ok((home.hits + hits, home.misses + misses))
    }

    /// The same of all other regions that can be reached. One that gives no answer is noted in
    /// `silent`, and not asked for the next bucket of a list.
    pub(super) async fn reads_elsewhere(&self, bucket: &Bucket, silent: &Silent) -> (u64, u64) {
        let topology = self.inner.catalog.topology();
        let me = self.inner.settings.region;
        let peers = self.inner.shards.peers();
        let others = topology.regions().filter(|(region, _)| *region != me);
        let others = others.filter(|(region, _)| !silent.0.lock().contains(region));
        let asked = others.map(|(region, _)| {
            let mut nodes = topology.nodes_of(region).map(|node| node.id);
            let node = nodes.find(|node| {
                let up = peers.connected(*node, Lane::Keys);
                up.is_some_and(|up| *up.borrow())
            });
            let body = call::Body::Reads(pb::ReadsQuery {
                bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
            });
            async move {
                match peers.call(node?, Lane::Keys, body, ASK).await {
                    Ok(reply::Body::Reads(reads)) => Some((reads.hits, reads.misses)),
                    _ => {
                        silent.0.lock().insert(region);
                        None
                    }
                }
            }
        });
        let counts = join_all(asked).await.into_iter().flatten();
        counts.fold((0, 0), |sum, reads| (sum.0 + reads.0, sum.1 + reads.1))
    }

    /// Reports reads every `stats_interval` until `stop`; what was read since then is for
    /// [`Directory::report_reads`], while the shards still run.
    pub async fn report(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.inner.settings.stats_interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.report_reads().await;
        }
    }

    /// Reports what was read and not reported yet.
    pub async fn report_reads(&self) {
        let mut by_shard: HashMap<u16, Vec<Report>> = HashMap::new();
        for bucket in self
            .inner
            .catalog
            .buckets_where(|bucket| bucket.usage.reads() != (0, 0))
        {
            let home = self.inner.shards.home(&bucket.id);
            let reads = bucket.usage.reads();
            by_shard.entry(home).or_default().push((bucket, reads));
        }
        for reads in by_shard.into_values() {
            for part in reads.chunks(REPORT_LIMIT) {
                self.report_part(part).await;
            }
        }
    }

    async fn report_part(&self, part: &[Report]) {
        let Some((first, _)) = part.first() else {
            return;
        };
        let counts = part.iter().map(|(bucket, (hits, misses))| pb::ReadCount {
            bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
            hits: *hits,
            misses: *misses,
        });
        let counts = pb::CountReads {
            counts: counts.collect(),
        };
        let home = self.inner.shards.home(&first.id);
        let report = Propose(shard_command::Kind::CountReads(counts));
        let reported = self.inner.shards.run(home, &report).await;
        // With an unknown outcome they may be lost, rather than counted twice.
        if !matches!(reported, Err(KeyError::Unavailable(_))) {
            for (bucket, reads) in part {
                bucket.usage.reported(*reads);
            }
        }
    }

    /// Removes accounts that were left without a bucket for long, until `stop`, as long as this
    /// node's clock is right.
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
        let mut tick = tokio::time::interval(ACCOUNT_SWEEP);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if !self.inner.metadata.leads() || !clock_ok() {
                continue;
            }
            let before = self.inner.clock.now().saturating_sub(ttl);
            while self.inner.catalog.has_idle_account(before) {
                let limit = ACCOUNT_LIMIT;
                let expire = pb::ExpireAccounts { before, limit };
                let command = meta_command::Kind::ExpireAccounts(expire);
                if self.propose(command).await.is_err() {
                    // What can't be removed now is removed at the next look.
                    break;
                }
            }
        }
    }
}
