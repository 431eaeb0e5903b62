//! Replication status of each shard to and from each other region: progress, lag and traffic. It is
//! kept in memory by the node that leads the shard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;

/// Replication of one shard to one other region, and from there.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Incarnation of the other region to which the values belong.
    incarnation: u64,
    /// Version up to which the other region has acknowledged this region's changes.
    pub confirmed: u64,
    /// Half of the time from sending a change to its acknowledgement, smoothed.
    travel: Option<Duration>,
    /// Age of the oldest change in the last batch, if more changes followed it; else 0.
    late: Duration,
    /// Time of the other region's last answer.
    pub heard: Option<Instant>,
    /// Number of changes sent, including those sent again.
    pub sent_records: u64,
    /// Size of the changes sent, in bytes before compression.
    pub sent_bytes: u64,
    /// Lag of the other region's changes, as that region reports it.
    pub inbound_lag: Option<Duration>,
    /// Time at which the other region last sent something.
    pub inbound_heard: Option<Instant>,
    /// Number of changes that were refused because their versions were too far ahead of this clock.
    pub held_ahead: u64,
    /// Time at which that was last logged.
    ahead_logged: Option<Instant>,
    /// Number of times that the two regions disagreed on the sent changes: none, unless a region
    /// was reset.
    pub alarms: u64,
}

impl Line {
    /// Delay of changes to the other region: their travel time or, while the region is behind, the
    /// time until they are sent.
    pub fn lag(&self) -> Option<Duration> {
        let backlog_age = Some(self.late).filter(|backlog_age| !backlog_age.is_zero());
        self.travel.max(backlog_age)
    }
}

/// Replication status of all shards of this node, by shard and region.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<(u16, u32), Line>>);

impl Ledger {
    fn with(&self, shard: u16, region: u32, update: impl FnOnce(&mut Line)) {
        update(self.0.lock().entry((shard, region)).or_default());
    }

    /// Copies the status of all shards and regions.
    pub fn lines(&self) -> BTreeMap<(u16, u32), Line> {
        self.0.lock().clone()
    }

    /// Version up to which a region has acknowledged a shard's changes.
    pub(super) fn confirmed(&self, shard: u16, peer: &pb::PeerState) -> u64 {
        let replications = self.0.lock();
        let replication = replications.get(&(shard, peer.region));
        let replication = replication.filter(|replication| replication.incarnation == peer.incarnation);
        replication.map_or(0, |replication| replication.confirmed)
    }

    /// Records the position that a region has acknowledged.
    pub(super) fn confirm(&self, shard: u16, peer: &pb::Peer, position: u64) {
        self.with(shard, peer.region, |replication| {
            if replication.incarnation != peer.incarnation {
                replication.incarnation = peer.incarnation;
                replication.confirmed = 0;
            }
            replication.confirmed = replication.confirmed.max(position);
            replication.heard = Some(Instant::now());
        });
    }

    /// Records the time from sending changes to their acknowledgement.
    pub(super) fn measured(&self, shard: u16, region: u32, round_trip: Duration) {
        self.with(shard, region, |replication| {
            let delay = round_trip / 2;
            replication.travel = Some(replication.travel.map_or(delay, |smoothed| (smoothed * 7 + delay) / 8));
        });
    }

    /// Records sent changes; `backlog_age` is the age of the oldest one if more changes follow,
    /// else 0.
    pub(super) fn sent(&self, to: (u16, u32), (records, bytes): (usize, usize), backlog_age: Duration) {
        self.with(to.0, to.1, |replication| {
            replication.sent_records += records as u64;
            replication.sent_bytes += bytes as u64;
            replication.late = backlog_age;
        });
    }

    pub(super) fn received(&self, shard: u16, region: u32, lag_us: u64) {
        self.with(shard, region, |replication| {
            replication.inbound_heard = Some(Instant::now());
            if lag_us > 0 {
                replication.inbound_lag = Some(Duration::from_micros(lag_us));
            }
        });
    }

    /// Counts changes that were refused because they are too far ahead. Returns whether to log
    /// that.
    pub(super) fn ahead(&self, shard: u16, region: u32) -> bool {
        let mut is_due = false;
        self.with(shard, region, |replication| {
            replication.held_ahead += 1;
            is_due = replication.ahead_logged.is_none_or(|at| at.elapsed() > LOG_AHEAD);
            if is_due {
                replication.ahead_logged = Some(Instant::now());
            }
        });
        is_due
    }

    pub(super) fn alarm(&self, shard: u16, region: u32) {
        self.with(shard, region, |replication| replication.alarms += 1);
    }

    pub(super) fn lag(&self, shard: u16, region: u32) -> Option<Duration> {
        self.0.lock().get(&(shard, region))?.lag()
    }

    /// Clears the inbound lag of shards that this node doesn't lead: it is known to their leaders.
    pub fn forget_unled(&self, leads: impl Fn(u16) -> bool) {
        for ((shard, _), replication) in self.0.lock().iter_mut() {
            if !leads(*shard) {
                replication.inbound_heard = None;
                replication.inbound_lag = None;
            }
        }
    }

    /// Maximum age of this node's view of another region: the delay of changes from there or, if
    /// nothing arrived for longer than a heartbeat takes, that delay and the silence.
    pub fn inbound_lag(&self, region: u32) -> Option<Duration> {
        let replications = self.0.lock();
        let of_region = replications.iter().filter(|((_, other), _)| *other == region);
        let lags = of_region.filter_map(|(_, replication)| {
            let silence = replication.inbound_heard?.elapsed();
            let lag = replication.inbound_lag.unwrap_or_default();
            Some(if silence > SILENCE {
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
const LOG_AHEAD: Duration = Duration::from_secs(60);
/// Silence after which a region counts as lagging: heartbeats arrive more often than that.
const SILENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: pb::Peer = pb::Peer {
        region: 2,
        incarnation: 7,
    };

    #[test]
    fn an_acknowledgement_belongs_to_one_incarnation() {
        let status = Ledger::default();
        status.confirm(3, &PEER, 10);
        status.confirm(3, &PEER, 4);
        let state = |incarnation| pb::PeerState {
            region: 2,
            incarnation,
            ..Default::default()
        };
        assert_eq!(status.confirmed(3, &state(7)), 10);
        assert_eq!(status.confirmed(3, &state(8)), 0);
        status.confirm(
            3,
            &pb::Peer {
                incarnation: 8,
                ..PEER
            },
            1,
        );
        assert_eq!(status.confirmed(3, &state(8)), 1);
    }

    #[test]
    fn a_region_that_is_behind_lags_by_the_age_of_the_changes_sent_to_it() {
        let status = Ledger::default();
        let minute = Duration::from_secs(60);
        status.sent((3, 2), (1000, 10), minute);
        status.measured(3, 2, Duration::from_millis(80));
        assert_eq!(status.lag(3, 2), Some(minute));
        status.sent((3, 2), (10, 10), Duration::ZERO);
        assert_eq!(status.lag(3, 2), Some(Duration::from_millis(40)));
    }

    #[test]
    fn the_lag_of_a_region_is_that_of_its_slowest_shard() {
        let status = Ledger::default();
        assert_eq!(status.inbound_lag(2), None);
        status.received(0, 2, 40_000);
        status.received(1, 2, 90_000);
        status.received(1, 3, 500_000);
        assert_eq!(status.inbound_lag(2), Some(Duration::from_millis(90)));
        // Else silence would count as lag, and grow for ever.
        status.forget_unled(|shard| shard == 0);
        assert_eq!(status.inbound_lag(2), Some(Duration::from_millis(40)));
        status.forget_unled(|_| false);
        assert_eq!(status.inbound_lag(2), None);
    }
}
