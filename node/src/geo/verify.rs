//! Compares what regions hold of a shard.
//!
//! Every region's leader sums up its live records, in one view, by ranges of hashes (`shard::compare`).
//! Sums that are equal prove their range equal, whatever is on its way. Sums that differ may only tell
//! that something is: such ranges are compared again, a bounded number of times. They differ for good
//! if they still do when each region had all changes of each other, several times over.

use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::join_all;

use super::Geo;
use crate::rpc::Lane;
use crate::shard::RANGES;
use crate::store::keys::GroupId;
use crate::types::Nanos;

/// Comparisons of one shard, and the pause between two.
const ROUNDS: (u32, Duration) = (12, Duration::from_millis(400));
/// Comparisons in which a range differs, though nothing was on its way, until it counts as different.
const SETTLED: u32 = 3;
/// Time for a region to walk over a shard.
const WALK: Duration = Duration::from_secs(300);
/// Time for a region to have a leader of the shard that answers, as after a restart, and the pause
/// before it is looked for again.
const LEADER_WAIT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(200));
/// What expires so soon is left out: while regions are asked one of them may remove it.
const EXPIRES_SOON: Duration = Duration::from_secs(5);

/// What came of comparing a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The shard.
    pub shard: u16,
    /// The regions that were compared; those that join or leave are not.
    pub regions: Vec<String>,
    /// Live records in the first of them.
    pub records: u64,
    /// Ranges of hashes that a shard is divided into.
    pub ranges: u32,
    /// In short.
    pub verdict: Verdict,
    /// The ranges that were not equal in any comparison.
    pub differences: Vec<Difference>,
}

/// In short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All regions hold the same.
    Equal,
    /// They don't, though each has all changes of each other.
    Different,
    /// They didn't at any time, but changes were on their way each time.
    Undecided,
}

/// A range that isn't equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its number.
    pub range: u32,
    /// The regions' sums and numbers of records, in the regions' order.
    pub sums: Vec<(u64, u64)>,
}

/// Why a shard can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The cluster has fewer shards.
    #[error("there is no such shard")]
    NoSuchShard,
    /// Nobody leads the shard there, as far as this node knows.
    #[error(
        "region {0} has no leader of the shard, or none that this node hears of: `cloudkv-node admin \
         status` of a node there tells whether it serves"
    )]
    NoLeader(String),
    /// Its leader gave no answer, or refused.
    #[error("region {region}: {reason}")]
    NoAnswer {
        /// The region.
        region: String,
        /// Why.
        reason: String,
    },
}

impl Geo {
    /// Compares a shard in all regions that serve.
    pub async fn verify(&self, shard: u16) -> Result<Comparison, VerifyError> {
        if self.shard(u32::from(shard)).is_none() {
            return Err(VerifyError::NoSuchShard);
        }
        let topology = self.catalog.topology();
        let regions = topology.all_regions().iter();
        let regions: Vec<(u32, String)> = regions
            .filter(|(_, region)| !region.joining && !region.leaving)
            .map(|(number, region)| (*number, region.name.clone()))
            .collect();
        let mut judge = Judge::new(RANGES);
        for round in 0..ROUNDS.0 {
            if round > 0 {
                tokio::time::sleep(ROUNDS.1).await;
            }
            let soon = Nanos::try_from(EXPIRES_SOON.as_nanos()).unwrap_or(0);
            let at = self.clock.now().saturating_add(soon);
            let asked = regions
                .iter()
                .map(|region| self.sums_of(shard, at, region.0, &region.1));
            let mut told = Vec::new();
            for answer in join_all(asked).await {
                told.push(answer?);
            }
            let numbers: Vec<u32> = regions.iter().map(|(number, _)| *number).collect();
            if judge.take(&numbers, told) {
                break;
            }
        }
        Ok(Comparison {
            shard,
            regions: regions.into_iter().map(|(_, name)| name).collect(),
            records: judge.records(),
            ranges: RANGES,
            verdict: judge.verdict(),
            differences: judge.differences(),
        })
    }

    /// What a region has of a shard. Where nobody answers it is asked again for a while: elections
    /// take a moment, and so does hearing of who leads.
    async fn sums_of(
        &self,
        shard: u16,
        at: Nanos,
        region: u32,
        name: &str,
    ) -> Result<pb::DigestReply, VerifyError> {
        let (within, pause) = LEADER_WAIT;
        let deadline = Instant::now() + within;
        loop {
            match self.try_sums_of(shard, at, region, name).await {
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!(shard, %error, "regions can't be compared yet");
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_sums_of(
        &self,
        shard: u16,
        at: Nanos,
        region: u32,
        name: &str,
    ) -> Result<pb::DigestReply, VerifyError> {
        let query = pb::DigestQuery {
            shard: u32::from(shard),
            at,
            ranges: RANGES,
        };
        let failed = |reason: String| VerifyError::NoAnswer {
            region: name.to_owned(),
            reason,
        };
        let here = self
            .shard(u32::from(shard))
            .filter(|_| region == self.me.region);
        let answer = if here.is_some_and(|shard| shard.leads()) {
            self.digest(query).await
        } else {
            let near = self.peers.near();
            let leader = if region == self.me.region {
                let group = GroupId::shard(shard);
                self.vitals.leader_of(group, |node| near.contains(&node))
            } else {
                self.leader_in(shard, region)
            };
            let node = leader.ok_or_else(|| VerifyError::NoLeader(name.to_owned()))?;
            let body = call::Body::Digest(query);
            let call = self.peers.call(node, Lane::Geo, body, WALK).await;
            call.map_err(|error| failed(error.to_string()))?
        };
        match answer {
            reply::Body::Digest(reply) if reply.digests.len() == RANGES as usize => Ok(reply),
            reply::Body::Refused(refused) => Err(failed(refused.message)),
            _ => Err(failed("an answer to something else".to_owned())),
        }
    }
}

/// What all comparisons so far have shown.
struct Judge {
    /// Ranges that were not equal in any of them, and in how many they differed with nothing on its
    /// way.
    open: Vec<(u32, u32)>,
    last: Vec<pb::DigestReply>,
}

impl Judge {
    fn new(ranges: u32) -> Self {
        Self {
            open: (0..ranges).map(|range| (range, 0)).collect(),
            last: Vec::new(),
        }
    }

    /// Takes another comparison; returns whether it was the last one needed.
    fn take(&mut self, regions: &[u32], told: Vec<pb::DigestReply>) -> bool {
        let settled = u32::from(is_settled(regions, &told));
        let sum = |reply: &pb::DigestReply, range: u32| reply.digests.get(range as usize).copied();
        self.open.retain_mut(|(range, times)| {
            *times += settled;
            let first = told.first().and_then(|first| sum(first, *range));
            told.iter().any(|other| sum(other, *range) != first)
        });
        self.last = told;
        self.open.iter().all(|(_, times)| *times >= SETTLED)
    }

    fn records(&self) -> u64 {
        let first = self.last.first();
        first.map_or(0, |first| first.records.iter().sum())
    }

    fn verdict(&self) -> Verdict {
        if self.open.is_empty() {
            Verdict::Equal
        } else if self.open.iter().any(|(_, times)| *times >= SETTLED) {
            Verdict::Different
        } else {
            Verdict::Undecided
        }
    }

    fn differences(&self) -> Vec<Difference> {
        let certain = self.verdict() == Verdict::Different;
        let open = self.open.iter();
        let open = open.filter(|(_, times)| !certain || *times >= SETTLED);
        let of = |list: &[u64], range: u32| list.get(range as usize).copied().unwrap_or(0);
        open.map(|(range, _)| Difference {
            range: *range,
            sums: self
                .last
                .iter()
                .map(|reply| (of(&reply.digests, *range), of(&reply.records, *range)))
                .collect(),
        })
        .collect()
    }
}

/// Whether each region had all changes of each other when it was summed up.
fn is_settled(regions: &[u32], told: &[pb::DigestReply]) -> bool {
    regions.iter().zip(told).all(|(number, origin)| {
        let mut others = regions
            .iter()
            .zip(told)
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

    fn told(own: u64, cursor: (u32, u64), digests: &[u64]) -> pb::DigestReply {
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
        let mut judge = Judge::new(2);
        let (one, two) = (told(5, (2, 3), &[1, 9]), told(3, (1, 4), &[1, 8]));
        assert!(!judge.take(&[1, 2], vec![one, two]));
        let (one, two) = (told(7, (2, 3), &[2, 8]), told(3, (1, 5), &[1, 8]));
        assert!(judge.take(&[1, 2], vec![one, two]));
        assert_eq!((judge.verdict(), judge.records()), (Verdict::Equal, 2));
        assert!(judge.differences().is_empty());
    }

    #[test]
    fn a_range_that_differs_while_changes_are_on_their_way_is_undecided() {
        let mut judge = Judge::new(1);
        for _ in 0..20 {
            let (one, two) = (told(5, (2, 3), &[1]), told(3, (1, 4), &[2]));
            assert!(!judge.take(&[1, 2], vec![one, two]));
        }
        assert_eq!(judge.verdict(), Verdict::Undecided);
    }

    #[test]
    fn a_range_that_differs_with_nothing_on_its_way_differs() {
        let mut judge = Judge::new(2);
        let mut done = false;
        for _ in 0..SETTLED {
            assert!(!done);
            let (one, two) = (told(5, (2, 3), &[1, 1]), told(3, (1, 5), &[1, 2]));
            done = judge.take(&[1, 2], vec![one, two]);
        }
        assert!(done);
        assert_eq!(judge.verdict(), Verdict::Different);
        let sums = vec![(1, 1), (2, 1)];
        assert_eq!(judge.differences(), [Difference { range: 1, sums }]);
    }
}
