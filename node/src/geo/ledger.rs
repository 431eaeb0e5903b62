//! How far each other region is with each shard, and how long changes take on their way: kept in
//! memory, by whoever leads the shard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;

/// One shard on its way to one other region, and back.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// The region's history that this is about.
    incarnation: u64,
    /// It has this region's changes up to here.
    pub confirmed: u64,
    /// Half the time from sending a change to its acknowledgement, smoothed.
    travel: Option<Duration>,
    /// How old the oldest change was that was sent last, if there was more to send.
    late: Duration,
    /// When the other side last answered.
    pub heard: Option<Instant>,
    /// Changes sent, those sent again included.
    pub sent_records: u64,
    /// And their bytes, before compression.
    pub sent_bytes: u64,
    /// How long its changes take to here, as it says.
    pub inbound_lag: Option<Duration>,
    /// When it last sent something.
    pub inbound_heard: Option<Instant>,
    /// Changes that were refused because they came from too far ahead in time.
    pub held_ahead: u64,
    /// When that was last logged.
    ahead_logged: Option<Instant>,
    /// Times that the two sides disagreed on what one has sent: never, unless a region was reset.
    pub alarms: u64,
}

impl Line {
    /// How long changes take to the other region: on their way, or until it is their turn while the
    /// region is behind.
    pub fn lag(&self) -> Option<Duration> {
        let late = Some(self.late).filter(|late| !late.is_zero());
        self.travel.max(late)
    }
}

/// All lines of this node, by shard and region.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<(u16, u32), Line>>);

impl Ledger {
    fn with(&self, shard: u16, region: u32, change: impl FnOnce(&mut Line)) {
        change(self.0.lock().entry((shard, region)).or_default());
    }

    /// All of them.
    pub fn lines(&self) -> BTreeMap<(u16, u32), Line> {
        self.0.lock().clone()
    }

    /// Up to where a region has a shard's changes, as it said.
    pub(super) fn confirmed(&self, shard: u16, peer: &pb::PeerState) -> u64 {
        let lines = self.0.lock();
        let line = lines.get(&(shard, peer.region));
        let line = line.filter(|line| line.incarnation == peer.incarnation);
        line.map_or(0, |line| line.confirmed)
    }

    /// A region has said how far it is.
    pub(super) fn confirm(&self, shard: u16, peer: &pb::Peer, position: u64) {
        self.with(shard, peer.region, |line| {
            if line.incarnation != peer.incarnation {
                line.incarnation = peer.incarnation;
                line.confirmed = 0;
            }
            line.confirmed = line.confirmed.max(position);
            line.heard = Some(Instant::now());
        });
    }

    /// Changes were acknowledged so long after they were sent.
    pub(super) fn measured(&self, shard: u16, region: u32, round_trip: Duration) {
        self.with(shard, region, |line| {
            let now = round_trip / 2;
            line.travel = Some(line.travel.map_or(now, |lag| (lag * 7 + now) / 8));
        });
    }

    /// Changes are sent, so many; `late` is how old the oldest is if there is more after them.
    pub(super) fn sent(&self, to: (u16, u32), (records, bytes): (usize, usize), late: Duration) {
        self.with(to.0, to.1, |line| {
            line.sent_records += records as u64;
            line.sent_bytes += bytes as u64;
            line.late = late;
        });
    }

    pub(super) fn received(&self, shard: u16, region: u32, lag_us: u64) {
        self.with(shard, region, |line| {
            line.inbound_heard = Some(Instant::now());
            if lag_us > 0 {
                line.inbound_lag = Some(Duration::from_micros(lag_us));
            }
        });
    }

    /// Changes were refused because they came from too far ahead; tells whether to log it.
    pub(super) fn ahead(&self, shard: u16, region: u32) -> bool {
        let mut logs = false;
        self.with(shard, region, |line| {
            line.held_ahead += 1;
            logs = line.ahead_logged.is_none_or(|at| at.elapsed() > LOG_AHEAD);
            if logs {
                line.ahead_logged = Some(Instant::now());
            }
        });
        logs
    }

    pub(super) fn alarm(&self, shard: u16, region: u32) {
        self.with(shard, region, |line| line.alarms += 1);
    }

    pub(super) fn lag(&self, shard: u16, region: u32) -> Option<Duration> {
        self.0.lock().get(&(shard, region))?.lag()
    }

    /// Forgets when other regions were heard of shards that this node doesn't lead: they are heard by
    /// whoever does.
    pub fn forget_unled(&self, leads: impl Fn(u16) -> bool) {
        for ((shard, _), line) in self.0.lock().iter_mut() {
            if !leads(*shard) {
                line.inbound_heard = None;
                line.inbound_lag = None;
            }
        }
    }

    /// How old what this node knows of another region may be: how long changes take from there to
    /// here, or how long nothing came, if that is longer than between two heartbeats.
    pub fn inbound_lag(&self, region: u32) -> Option<Duration> {
        let lines = self.0.lock();
        let of_region = lines.iter().filter(|((_, other), _)| *other == region);
        let lags = of_region.filter_map(|(_, line)| {
            let silence = line.inbound_heard?.elapsed();
            let lag = line.inbound_lag.unwrap_or_default();
            Some(if silence > SILENCE {
                lag + silence
            } else {
                lag
            })
        });
        lags.max()
    }
}

/// How often it is logged that changes come from too far ahead: they are sent again all the time.
const LOG_AHEAD: Duration = Duration::from_secs(60);
/// Heartbeats come more often than this.
const SILENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: pb::Peer = pb::Peer {
        region: 2,
        incarnation: 7,
    };

    #[test]
    fn what_was_confirmed_belongs_to_one_history() {
        let ledger = Ledger::default();
        ledger.confirm(3, &PEER, 10);
        ledger.confirm(3, &PEER, 4);
        let state = |incarnation| pb::PeerState {
            region: 2,
            incarnation,
            ..Default::default()
        };
        assert_eq!(ledger.confirmed(3, &state(7)), 10);
        assert_eq!(ledger.confirmed(3, &state(8)), 0);
        ledger.confirm(
            3,
            &pb::Peer {
                incarnation: 8,
                ..PEER
            },
            1,
        );
        assert_eq!(ledger.confirmed(3, &state(8)), 1);
    }

    #[test]
    fn a_region_that_is_behind_lags_by_the_age_of_what_it_is_sent() {
        let ledger = Ledger::default();
        let minute = Duration::from_secs(60);
        ledger.sent((3, 2), (1000, 10), minute);
        ledger.measured(3, 2, Duration::from_millis(80));
        assert_eq!(ledger.lag(3, 2), Some(minute));
        ledger.sent((3, 2), (10, 10), Duration::ZERO);
        assert_eq!(ledger.lag(3, 2), Some(Duration::from_millis(40)));
    }

    #[test]
    fn the_lag_of_a_region_is_that_of_its_slowest_shard() {
        let ledger = Ledger::default();
        assert_eq!(ledger.inbound_lag(2), None);
        ledger.received(0, 2, 40_000);
        ledger.received(1, 2, 90_000);
        ledger.received(1, 3, 500_000);
        assert_eq!(ledger.inbound_lag(2), Some(Duration::from_millis(90)));
        // Else silence would be taken for lag, and grow for ever.
        ledger.forget_unled(|shard| shard == 0);
        assert_eq!(ledger.inbound_lag(2), Some(Duration::from_millis(40)));
        ledger.forget_unled(|_| false);
        assert_eq!(ledger.inbound_lag(2), None);
    }
}
