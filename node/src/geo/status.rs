//! Replication status of each shard to and from each other region: progress, lag and traffic. It is
//! kept in memory by the node that leads the shard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;

/// Replication of one shard to one other region, and from there.
#[derive(Clone, Debug, Default)]
pub struct ShardReplication {
    /// Incarnation of the other region to which the values belong.
    incarnation: u64,
    /// Position up to which the other region has acknowledged this region's changes.
    pub acknowledged: u64,
    /// Half of the time from sending a change to its acknowledgement, smoothed.
    travel_time: Option<Duration>,
    /// Age of the oldest change in the last batch, if more changes followed it; else 0.
    backlog_age: Duration,
    /// Time of the other region's last answer.
    pub last_heard: Option<Instant>,
    /// Number of changes sent, including those sent again.
    pub sent_records: u64,
    /// Size of the changes sent, in bytes before compression.
    pub sent_bytes: u64,
    /// Lag of the other region's changes, as that region reports it.
    pub inbound_lag: Option<Duration>,
    /// Time at which the other region last sent something.
    pub last_inbound: Option<Instant>,
    /// Number of changes that were refused because their versions were too far ahead of this clock.
    pub refused_ahead: u64,
    /// Time at which that was last logged.
    last_ahead_log: Option<Instant>,
    /// Number of times that the two regions disagreed on the sent changes: none, unless a region
    /// was reset.
    pub disagreements: u64,
}

impl ShardReplication {
    /// Delay of changes to the other region: their travel time or, while the region is behind, the
    /// time until they are sent.
    pub fn lag(&self) -> Option<Duration> {
        let backlog_age = Some(self.backlog_age).filter(|backlog_age| !backlog_age.is_zero());
        self.travel_time.max(backlog_age)
    }
}

/// Replication status of all shards of this node, by shard and region.
#[derive(Debug, Default)]
pub struct ReplicationStatus(Mutex<BTreeMap<(u16, u32), ShardReplication>>);

impl ReplicationStatus {
    fn update(&self, shard: u16, region: u32, update: impl FnOnce(&mut ShardReplication)) {
        update(self.0.lock().entry((shard, region)).or_default());
    }

    /// Copies the status of all shards and regions.
    pub fn all(&self) -> BTreeMap<(u16, u32), ShardReplication> {
        self.0.lock().clone()
    }

    /// Position up to which a region has acknowledged a shard's changes.
    pub(super) fn acknowledged(&self, shard: u16, peer: &pb::PeerState) -> u64 {
        let replications = self.0.lock();
        let replication = replications.get(&(shard, peer.region));
        let replication =
            replication.filter(|replication| replication.incarnation == peer.incarnation);
        replication.map_or(0, |replication| replication.acknowledged)
    }

    /// Records the position that a region has acknowledged.
    pub(super) fn record_ack(&self, shard: u16, peer: &pb::Peer, position: u64) {
        self.update(shard, peer.region, |replication| {
            if replication.incarnation != peer.incarnation {
                replication.incarnation = peer.incarnation;
                replication.acknowledged = 0;
            }
            replication.acknowledged = replication.acknowledged.max(position);
            replication.last_heard = Some(Instant::now());
        });
    }

    /// Records the time from sending changes to their acknowledgement.
    pub(super) fn record_round_trip(&self, shard: u16, region: u32, round_trip: Duration) {
        self.update(shard, region, |replication| {
            let delay = round_trip / 2;
            replication.travel_time = Some(
                replication
                    .travel_time
                    .map_or(delay, |smoothed| (smoothed * 7 + delay) / 8),
            );
        });
    }

    /// Records sent changes; `backlog_age` is the age of the oldest one if more changes follow,
    /// else 0.
    pub(super) fn record_sent(
        &self,
        to: (u16, u32),
        (records, bytes): (usize, usize),
        backlog_age: Duration,
    ) {
        self.update(to.0, to.1, |replication| {
            replication.sent_records += records as u64;
            replication.sent_bytes += bytes as u64;
            replication.backlog_age = backlog_age;
        });
    }

    pub(super) fn record_received(&self, shard: u16, region: u32, lag_us: u64) {
        self.update(shard, region, |replication| {
            replication.last_inbound = Some(Instant::now());
            if lag_us > 0 {
                replication.inbound_lag = Some(Duration::from_micros(lag_us));
            }
        });
    }

    /// Counts changes that were refused because they are too far ahead. Returns whether to log
    /// that.
    pub(super) fn record_ahead(&self, shard: u16, region: u32) -> bool {
        let mut is_due = false;
        self.update(shard, region, |replication| {
            replication.refused_ahead += 1;
            is_due = replication
                .last_ahead_log
                .is_none_or(|at| at.elapsed() > AHEAD_LOG_INTERVAL);
            if is_due {
                replication.last_ahead_log = Some(Instant::now());
            }
        });
        is_due
    }

    pub(super) fn record_disagreement(&self, shard: u16, region: u32) {
        self.update(shard, region, |replication| replication.disagreements += 1);
    }

    pub(super) fn lag(&self, shard: u16, region: u32) -> Option<Duration> {
        self.0.lock().get(&(shard, region))?.lag()
    }

    /// Clears the inbound lag of shards that this node doesn't lead: it is known to their leaders.
    pub fn clear_inbound_lag(&self, leads: impl Fn(u16) -> bool) {
        for ((shard, _), replication) in self.0.lock().iter_mut() {
            if !leads(*shard) {
                replication.last_inbound = None;
                replication.inbound_lag = None;
            }
        }
    }

    /// Maximum age of this node's view of another region: the delay of changes from there or, if
    /// nothing arrived for longer than a heartbeat takes, that delay and the silence.
    pub fn inbound_lag(&self, region: u32) -> Option<Duration> {
        let replications = self.0.lock();
        let of_region = replications
            .iter()
            .filter(|((_, other), _)| *other == region);
        let lags = of_region.filter_map(|(_, replication)| {
            let silence = replication.last_inbound?.elapsed();
            let lag = replication.inbound_lag.unwrap_or_default();
            Some(if silence > SILENCE_TIMEOUT {
                lag + silence
            } else {
                lag
            })
        });
        lags.max()
    }
}

/// Minimum time between two log messages about changes too far ahead, which are sent again all the
/// time.
const AHEAD_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Silence after which a region counts as lagging: heartbeats arrive more often than that.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: pb::Peer = pb::Peer {
        region: 2,
        incarnation: 7,
    };

    #[test]
    fn an_acknowledgement_belongs_to_one_incarnation() {
        let status = ReplicationStatus::default();
        status.record_ack(3, &PEER, 10);
        status.record_ack(3, &PEER, 4);
        let state = |incarnation| pb::PeerState {
            region: 2,
            incarnation,
            ..Default::default()
        };
        assert_eq!(status.acknowledged(3, &state(7)), 10);
        assert_eq!(status.acknowledged(3, &state(8)), 0);
        status.record_ack(
            3,
            &pb::Peer {
                incarnation: 8,
                ..PEER
            },
            1,
        );
        assert_eq!(status.acknowledged(3, &state(8)), 1);
    }

    #[test]
    fn a_region_that_is_behind_lags_by_the_age_of_the_changes_sent_to_it() {
        let status = ReplicationStatus::default();
        let minute = Duration::from_secs(60);
        status.record_sent((3, 2), (1000, 10), minute);
        status.record_round_trip(3, 2, Duration::from_millis(80));
        assert_eq!(status.lag(3, 2), Some(minute));
        status.record_sent((3, 2), (10, 10), Duration::ZERO);
        assert_eq!(status.lag(3, 2), Some(Duration::from_millis(40)));
    }

    #[test]
    fn the_lag_of_a_region_is_that_of_its_slowest_shard() {
        let status = ReplicationStatus::default();
        assert_eq!(status.inbound_lag(2), None);
        status.record_received(0, 2, 40_000);
        status.record_received(1, 2, 90_000);
        status.record_received(1, 3, 500_000);
        assert_eq!(status.inbound_lag(2), Some(Duration::from_millis(90)));
        // Else silence would count as lag, and grow for ever.
        status.clear_inbound_lag(|shard| shard == 0);
        assert_eq!(status.inbound_lag(2), Some(Duration::from_millis(40)));
        status.clear_inbound_lag(|_| false);
        assert_eq!(status.inbound_lag(2), None);
    }
}
