//! Compares the regions' data of a shard.
//!
//! Each region's leader computes digests of its live records from one view, by ranges of hashes
//! (`shard::digest`). Equal digests prove their range equal, whatever is in flight. Different
//! digests may only show that changes are in flight: such ranges are compared again, a bounded
//! number of times. They count as different if they still differ several times when each region had
//! all changes of each other.

use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::join_all;

use super::replication::GeoReplication;
use crate::rpc::StreamKind;
use crate::shard::MAX_DIGEST_RANGES;
use crate::types::Nanos;

/// Number of comparisons of one shard, and the interval between two.
const COMPARISON_ROUNDS: (u32, Duration) = (12, Duration::from_millis(400));
/// Comparisons that must show a difference with nothing in flight until a range counts as
/// different.
const REQUIRED_MISMATCHES: u32 = 3;
/// Time for a region to scan a shard.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Time to find a leader of the shard that answers, as after a restart, and the interval between
/// two tries.
const LEADER_RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(200));
/// Records that expire within this time are left out: a region may remove them during the
/// comparison.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5);

/// Result of comparing a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionComparison {
    /// Number of the shard.
    pub shard: u16,
    /// Names of the compared regions; those that join or are being removed are left out.
    pub regions: Vec<String>,
    /// Number of live records in the first of them.
    pub records: u64,
    /// Number of hash ranges into which a shard is divided.
    pub ranges: u32,
    /// Summary of the result.
    pub verdict: ComparisonVerdict,
    /// Ranges that were not equal in any comparison.
    pub differences: Vec<RangeDifference>,
}

/// Summary of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonVerdict {
    /// All regions have the same records.
    Equal,
    /// Records differ, though each region has all changes of each other.
    Different,
    /// Records differed each time, but changes were in flight.
    Undecided,
}

/// Range that isn't equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDifference {
    /// Number of the range.
    pub range: u32,
    /// Digests and record counts, in the order of the regions.
    pub sums: Vec<(u64, u64)>,
}

/// Reason why a shard can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The cluster has fewer shards.
    #[error("there is no such shard")]
    UnknownShard,
    /// The region has no leader of the shard, as far as this node knows.
    #[error(
        "region {0} has no leader of the shard, or none that this node knows: `cloudkv-node \
         admin status` of a node there shows whether it serves"
    )]
    NoLeader(String),
    /// The shard's leader didn't answer, or refused.
    #[error("region {region}: {reason}")]
    NoAnswer {
        /// Name of the region.
        region: String,
        /// Reason of the failure.
        reason: String,
    },
}

impl GeoReplication {
    /// Compares a shard in all serving regions.
    pub(crate) async fn verify(&self, shard: u16) -> Result<RegionComparison, VerifyError> {
        if self.shard(u32::from(shard)).is_none() {
            return Err(VerifyError::UnknownShard);
        }
        let topology = self.catalog.topology();
        let regions = topology.all_regions().iter();
        let regions: Vec<(u32, String)> = regions
            .filter(|(_, region)| !region.is_joining && !region.is_removing)
            .map(|(number, region)| (*number, region.name.clone()))
            .collect();
        let mut comparison = DigestComparison::new(MAX_DIGEST_RANGES);
        for round in 0..COMPARISON_ROUNDS.0 {
            if round > 0 {
                tokio::time::sleep(COMPARISON_ROUNDS.1).await;
            }
            let soon = Nanos::try_from(EXPIRY_MARGIN.as_nanos()).unwrap_or(0);
            let at = self.clock.now().saturating_add(soon);
            let queries = regions
                .iter()
                .map(|region| self.digests_of(shard, at, region.0, &region.1));
            let mut replies = Vec::new();
            for answer in join_all(queries).await {
                replies.push(answer?);
            }
            let numbers: Vec<u32> = regions.iter().map(|(number, _)| *number).collect();
            if comparison.add_round(&numbers, replies) {
                break;
            }
        }
        Ok(RegionComparison {
            shard,
            regions: regions.into_iter().map(|(_, name)| name).collect(),
            records: comparison.record_count(),
            ranges: MAX_DIGEST_RANGES,
            verdict: comparison.verdict(),
            differences: comparison.differences(),
        })
    }

    /// Queries a region's digests. If no leader answers, it retries for a while: elections, and
    /// news of them, take a moment.
    async fn digests_of(
        &self,
        shard: u16,
        at: Nanos,
        region: u32,
        name: &str,
    ) -> Result<pb::DigestReply, VerifyError> {
        let (timeout, interval) = LEADER_RETRY;
        let deadline = Instant::now() + timeout;
        loop {
            match self.try_digests_of(shard, at, region, name).await {
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!(shard, %error, "comparison of regions failed, retrying");
                    tokio::time::sleep(interval).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_digests_of(
        &self,
        shard: u16,
        at: Nanos,
        region: u32,
        name: &str,
    ) -> Result<pb::DigestReply, VerifyError> {
        let query = pb::DigestQuery {
            shard: u32::from(shard),
            at,
            ranges: MAX_DIGEST_RANGES,
        };
        let failed = |reason: String| VerifyError::NoAnswer {
            region: name.to_owned(),
            reason,
        };
        let local_shard = self
            .shard(u32::from(shard))
            .filter(|_| region == self.local.region);
        let answer = if local_shard.is_some_and(|shard| shard.is_leading()) {
            self.handle_digest_query(query).await
        } else {
            let leader = if region == self.local.region {
                self.leader_here(shard)
            } else {
                self.leader_in(shard, region)
            };
            let node = leader.ok_or_else(|| VerifyError::NoLeader(name.to_owned()))?;
            let body = call::Body::Digest(query);
            let call = self
                .peers
                .call(node, StreamKind::Geo, body, DIGEST_TIMEOUT)
                .await;
            call.map_err(|error| failed(error.to_string()))?
        };
        match answer {
            reply::Body::Digest(reply) if reply.digests.len() == MAX_DIGEST_RANGES as usize => {
                Ok(reply)
            }
            reply::Body::Refused(refused) => Err(failed(refused.message)),
            _ => Err(failed("unexpected response".to_owned())),
        }
    }
}

/// Result of all comparisons so far.
struct DigestComparison {
    /// Ranges that were not equal in any comparison, and the number of comparisons in which they
    /// differed with nothing in flight.
    unequal: Vec<(u32, u32)>,
    last_replies: Vec<pb::DigestReply>,
}

impl DigestComparison {
    fn new(ranges: u32) -> Self {
        Self {
            unequal: (0..ranges).map(|range| (range, 0)).collect(),
            last_replies: Vec::new(),
        }
    }

    /// Adds a comparison. Returns whether it was the last one needed.
    fn add_round(&mut self, regions: &[u32], replies: Vec<pb::DigestReply>) -> bool {
        let caught_up = u32::from(is_caught_up(regions, &replies));
        let sum = |reply: &pb::DigestReply, range: u32| reply.digests.get(range as usize).copied();
        self.unequal.retain_mut(|(range, times)| {
            *times += caught_up;
            let first = replies.first().and_then(|first| sum(first, *range));
            replies.iter().any(|other| sum(other, *range) != first)
        });
        self.last_replies = replies;
        self.unequal
            .iter()
            .all(|(_, times)| *times >= REQUIRED_MISMATCHES)
    }

    fn record_count(&self) -> u64 {
        let first = self.last_replies.first();
        first.map_or(0, |first| first.records.iter().sum())
    }

    fn verdict(&self) -> ComparisonVerdict {
        if self.unequal.is_empty() {
            ComparisonVerdict::Equal
        } else if self
            .unequal
            .iter()
            .any(|(_, times)| *times >= REQUIRED_MISMATCHES)
        {
            ComparisonVerdict::Different
        } else {
            ComparisonVerdict::Undecided
        }
    }

    fn differences(&self) -> Vec<RangeDifference> {
        let is_certain = self.verdict() == ComparisonVerdict::Different;
        let unequal = self.unequal.iter();
        let unequal = unequal.filter(|(_, times)| !is_certain || *times >= REQUIRED_MISMATCHES);
        let value = |list: &[u64], range: u32| list.get(range as usize).copied().unwrap_or(0);
        unequal
            .map(|(range, _)| RangeDifference {
                range: *range,
                sums: self
                    .last_replies
                    .iter()
                    .map(|reply| (value(&reply.digests, *range), value(&reply.records, *range)))
                    .collect(),
            })
            .collect()
    }
}

/// Returns whether each region had all changes of each other when its digests were computed.
fn is_caught_up(regions: &[u32], replies: &[pb::DigestReply]) -> bool {
    regions.iter().zip(replies).all(|(number, origin)| {
        let mut others = regions
            .iter()
            .zip(replies)
            .filter(|(other, _)| *other != number);
        others.all(|(_, reply)| {
            let cursor = reply.cursors.iter().find(|peer| peer.region == *number);
            cursor.is_some_and(|peer| peer.cursor == origin.own)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_reply(own: u64, cursor: (u32, u64), digests: &[u64]) -> pb::DigestReply {
        pb::DigestReply {
            digests: digests.to_vec(),
            records: vec![1; digests.len()],
            own,
            cursors: vec![pb::PeerState {
                region: cursor.0,
                cursor: cursor.1,
                ..Default::default()
            }],
        }
    }

    #[test]
    fn ranges_are_equal_once_they_were_in_any_comparison() {
        let mut comparison = DigestComparison::new(2);
        let (one, two) = (
            digest_reply(5, (2, 3), &[1, 9]),
            digest_reply(3, (1, 4), &[1, 8]),
        );
        assert!(!comparison.add_round(&[1, 2], vec![one, two]));
        let (one, two) = (
            digest_reply(7, (2, 3), &[2, 8]),
            digest_reply(3, (1, 5), &[1, 8]),
        );
        assert!(comparison.add_round(&[1, 2], vec![one, two]));
        assert_eq!(
            (comparison.verdict(), comparison.record_count()),
            (ComparisonVerdict::Equal, 2)
        );
        assert!(comparison.differences().is_empty());
    }

    #[test]
    fn a_range_that_differs_while_changes_are_in_flight_is_undecided() {
        let mut comparison = DigestComparison::new(1);
        for _ in 0..20 {
            let (one, two) = (digest_reply(5, (2, 3), &[1]), digest_reply(3, (1, 4), &[2]));
            assert!(!comparison.add_round(&[1, 2], vec![one, two]));
        }
        assert_eq!(comparison.verdict(), ComparisonVerdict::Undecided);
    }

    #[test]
    fn a_range_that_differs_with_nothing_in_flight_is_different() {
        let mut comparison = DigestComparison::new(2);
        let mut done = false;
        for _ in 0..REQUIRED_MISMATCHES {
            assert!(!done);
            let (one, two) = (
                digest_reply(5, (2, 3), &[1, 1]),
                digest_reply(3, (1, 5), &[1, 2]),
            );
            done = comparison.add_round(&[1, 2], vec![one, two]);
        }
        assert!(done);
        assert_eq!(comparison.verdict(), ComparisonVerdict::Different);
        let sums = vec![(1, 1), (2, 1)];
        assert_eq!(
            comparison.differences(),
            [RangeDifference { range: 1, sums }]
        );
    }
}
