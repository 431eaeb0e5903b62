//! Failure detector and clock monitor: decides which nodes are alive, and how far their clocks are
//! apart.
//!
//! Nodes ping each other a few times a second. Each pong is a sample of the other node's clock, as
//! in NTP (RFC 5905): the offset is off by at most half the round trip, so of the last few samples
//! the one with the shortest round trip counts.
//!
//! A node whose clock is further than the bound from those of most others must not lead, expire or
//! write: a clock ten minutes ahead would expire everything early, and win every conflict. A node
//! that has just started can't know that: the first answer may come from the one of two nodes from
//! which its own clock is far. It waits until it agrees with most known nodes, or for a grace
//! period; after that only the nodes that answer count. A node that has found its clock wrong
//! trusts it again only when it agrees with most known nodes: those that contradict it may just be
//! silent.
//!
//! Nodes report their judgement in their pongs. Leadership is not transferred to a node that
//! reports that its clock is off.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::raft::NodeId;
use crate::rpc::{Lane, Peers};
use crate::store::keys::GroupId;
use crate::types::Nanos;

/// Interval at which each node is pinged.
const EVERY: Duration = Duration::from_millis(250);
/// Time for a pong to arrive.
const ANSWER: Duration = Duration::from_millis(900);
/// Silence after which a node no longer counts as alive.
const SILENT: Duration = Duration::from_millis(1500);
/// Number of recent clock samples of which the best counts.
const SAMPLES: usize = 8;
/// Maximum offset of a clock from the others.
pub const MAX_OFFSET: Duration = Duration::from_millis(250);
/// Grace period after a start: then a node without any pong trusts its clock, and one with few
/// pongs judges by those.
const ALONE_AFTER: Duration = Duration::from_secs(5);

/// Health of another node, as far as known.
#[derive(Clone, Debug)]
pub struct Vital {
    /// Time of the last pong.
    pub heard: Instant,
    /// Start of the current period of pongs without a gap.
    pub since: Instant,
    /// Offset of the node's clock from this node's, in nanoseconds; positive if it is ahead.
    pub offset: i64,
    /// Shortest of the last round trips.
    pub round_trip: Duration,
    /// Highest feature level that the node supports.
    pub level: u32,
    /// True if the node trusts its own clock, and thus may lead.
    pub clock_ok: bool,
}

#[derive(Debug)]
struct History {
    samples: VecDeque<(Duration, i64)>,
    heard: Instant,
    since: Instant,
    level: u32,
    leads: Vec<u32>,
    /// Time of the last pong in which the node led the group, by group.
    led: HashMap<u32, Instant>,
    members: Vec<pb::GroupMembers>,
    clock_ok: bool,
    disk_low: bool,
    catching_up: bool,
    damaged: Vec<u32>,
}

/// Liveness of the other nodes, and the offsets of their clocks.
#[derive(Debug)]
pub struct Vitals {
    clock: Clock,
    level: u32,
    started: Instant,
    seen: RwLock<HashMap<NodeId, History>>,
    clock_ok: Arc<AtomicBool>,
    /// Set while the clock is off and that was logged.
    logged_off: AtomicBool,
}

impl Vitals {
    /// Creates a detector without any pong. `clock_ok` is set while this node's clock may be
    /// trusted: only once that is known.
    pub fn new(clock: Clock, level: u32, clock_ok: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            level,
            started: Instant::now(),
            seen: RwLock::default(),
            clock_ok,
            logged_off: AtomicBool::new(false),
        })
    }

    /// Pings the other nodes until `stop`.
    pub async fn watch(self: Arc<Self>, peers: Arc<Peers>, stop: CancellationToken) {
        let mut interval = tokio::time::interval(EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            let known = peers.known();
            self.seen.write().retain(|node, _| known.contains(node));
            for node in &known {
                let (detector, peers, node) = (self.clone(), peers.clone(), *node);
                tokio::spawn(async move { detector.call(&peers, node).await });
            }
            self.judge_clock(known.len());
        }
    }

    async fn call(&self, peers: &Peers, node: NodeId) {
        let (started, sent_at) = (Instant::now(), self.clock.now());
        let body = call::Body::Ping(pb::Ping { sent_at });
        let reply = peers.call(node, Lane::Raft, body, ANSWER).await;
        if let Ok(reply::Body::Pong(pong)) = reply {
            let round_trip = started.elapsed();
            let offset = offset(sent_at, &pong, self.clock.now());
            self.heard(node, round_trip, offset, &pong);
            peers.set_may_lead(node, !pong.clock_off);
        }
    }

    fn heard(&self, node: NodeId, round_trip: Duration, offset: i64, pong: &pb::Pong) {
        let now = Instant::now();
        let mut histories = self.seen.write();
        let history = histories.entry(node).or_insert_with(|| History {
            samples: VecDeque::new(),
            heard: now,
            since: now,
            level: pong.level,
            leads: Vec::new(),
            led: HashMap::new(),
            members: Vec::new(),
            clock_ok: true,
            disk_low: false,
            catching_up: false,
            damaged: Vec::new(),
        });
        if now.duration_since(history.heard) > SILENT {
            history.since = now;
            // It may have been restarted, with another clock.
            history.samples.clear();
        }
        history.heard = now;
        history.level = pong.level;
        history.leads.clone_from(&pong.leads);
        history
            .led
            .extend(pong.leads.iter().map(|group| (*group, now)));
        history.members.clone_from(&pong.members);
        history.clock_ok = !pong.clock_off;
        history.disk_low = pong.disk_low;
        history.catching_up = pong.catching_up;
        history.damaged.clone_from(&pong.damaged);
        history.samples.push_back((round_trip, offset));
        while history.samples.len() > SAMPLES {
            history.samples.pop_front();
        }
    }

    /// Builds the answer to a ping: `state` with the clock and the feature level.
    pub fn pong(&self, state: pb::Pong) -> reply::Body {
        let now = self.clock.now();
        reply::Body::Pong(pb::Pong {
            received_at: now,
            answered_at: now,
            level: self.level,
            clock_off: !self.clock_ok(),
            ..state
        })
    }

    /// Nodes whose state of a group is damaged, as of their last pong.
    pub fn damaged(&self, group: GroupId) -> Vec<NodeId> {
        let histories = self.seen.read();
        let nodes = histories.iter();
        let nodes = nodes.filter(|(_, it)| it.damaged.contains(&u32::from(group.0)));
        nodes.map(|(node, _)| *node).collect()
    }

    /// Health of a node; `None` if it never answered.
    pub fn of(&self, node: NodeId) -> Option<Vital> {
        let histories = self.seen.read();
        let history = histories.get(&node)?;
        let fastest = history.samples.iter().min_by_key(|(round_trip, _)| *round_trip);
        let (round_trip, offset) = fastest.copied()?;
        Some(Vital {
            heard: history.heard,
            since: history.since,
            offset,
            round_trip,
            level: history.level,
            clock_ok: history.clock_ok,
        })
    }

    /// Finds a node that leads a group as of its recent last pong, among those for which `among`
    /// holds.
    pub fn leader_of(&self, group: GroupId, among: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let histories = self.seen.read();
        let is_leading = |history: &History| {
            history.heard.elapsed() < SILENT && history.leads.contains(&u32::from(group.0))
        };
        histories.iter()
            .find(|(node, history)| is_leading(history) && among(**node))
            .map(|(node, _)| *node)
    }

    /// Returns whether a node has reported within `time` that it leads a group, backed by a
    /// majority.
    pub fn led_within(&self, node: NodeId, group: GroupId, time: Duration) -> bool {
        let histories = self.seen.read();
        let last_led = histories
            .get(&node)
            .and_then(|it| it.led.get(&u32::from(group.0)));
        last_led.is_some_and(|at| at.elapsed() < time)
    }

    /// Members of a group, as its leader reported recently, if `among` holds for the leader. `None`
    /// if no leader is known, or the members are being changed.
    pub fn members_of(
        &self,
        group: GroupId,
        among: impl Fn(NodeId) -> bool,
    ) -> Option<Vec<NodeId>> {
        let leader = self.leader_of(group, among)?;
        let histories = self.seen.read();
        let mut reported = histories.get(&leader)?.members.iter();
        let reported = reported.find(|members| members.group == u32::from(group.0))?;
        Some(reported.nodes.clone())
    }

    /// Returns whether a node's disk was below its low-water mark, as of its last pong.
    pub fn disk_is_low(&self, node: NodeId) -> bool {
        let histories = self.seen.read();
        histories.get(&node).is_some_and(|history| history.disk_low)
    }

    /// Returns whether a node lacked the state of shards in which it is to vote, as of its last
    /// pong.
    pub fn is_catching_up(&self, node: NodeId) -> bool {
        let histories = self.seen.read();
        histories.get(&node).is_some_and(|history| history.catching_up)
    }

    /// Returns whether a node has answered recently.
    pub fn lives(&self, node: NodeId) -> bool {
        self.of(node)
            .is_some_and(|health| health.heard.elapsed() < SILENT)
    }

    /// Returns whether leadership may be transferred to a node: it has answered without a gap for
    /// `time`, and its clock is right.
    pub fn fit_to_lead(&self, node: NodeId, time: Duration) -> bool {
        let is_fit = |health: Vital| {
            health.heard.elapsed() < SILENT && health.since.elapsed() > time && health.clock_ok
        };
        self.of(node).is_some_and(is_fit)
    }

    /// Returns whether this node's clock is near enough to those of most others.
    pub fn clock_ok(&self) -> bool {
        self.clock_ok.load(Ordering::Acquire)
    }

    /// Updates the judgement of this node's clock from the alive nodes, out of `others` other
    /// nodes.
    fn judge_clock(&self, others: usize) {
        let nodes: Vec<NodeId> = self.seen.read().keys().copied().collect();
        let alive = nodes.into_iter().filter(|node| self.lives(*node));
        let offsets: Vec<Offset> = alive
            .filter_map(|node| self.of(node))
            .map(|health| Offset {
                nanos: health.offset,
                error: health.round_trip / 2,
            })
            .collect();
        let was_off = self.logged_off.load(Ordering::Acquire);
        let has_decided = !was_off && (self.clock_ok() || self.started.elapsed() > ALONE_AFTER);
        let is_ok = if offsets.is_empty() {
            // Without other nodes to compare with, the judgement stays; after the grace period the
            // clock is right.
            others == 0 || has_decided
        } else if has_decided {
            is_near_most(&offsets, offsets.len())
        } else {
            is_near_most(&offsets, others.max(offsets.len()))
        };
        let was_ok = self.clock_ok.swap(is_ok, Ordering::AcqRel);
        // A starting node knows that its clock is off once the silent nodes can't change the
        // result.
        let unheard = others.saturating_sub(offsets.len());
        let is_off = !is_ok && (has_decided || !can_be_near_most(&offsets, others, unheard));
        if is_off && !self.logged_off.swap(true, Ordering::AcqRel) {
            tracing::error!(
                ?offsets,
                "this node's clock is too far from the others: it neither leads nor writes"
            );
        } else if is_ok && !was_ok {
            self.logged_off.store(false, Ordering::Release);
            tracing::info!("this node's clock agrees with the others");
        }
    }
}

/// Computes how far the answering clock is ahead, in nanoseconds.
fn offset(sent_at: Nanos, pong: &pb::Pong, returned_at: Nanos) -> i64 {
    let remote = i128::from(pong.received_at) + i128::from(pong.answered_at);
    let local = i128::from(sent_at) + i128::from(returned_at);
    i64::try_from((remote - local) / 2).unwrap_or(if remote > local { i64::MAX } else { i64::MIN })
}

/// Measured offset of another clock.
#[derive(Clone, Copy, Debug)]
struct Offset {
    nanos: i64,
    /// Maximum error of the measurement.
    error: Duration,
}

/// Returns whether at least half of all nodes, this one and `others`, are within the bound, as far
/// as can be known: on a busy machine a round trip can take longer than the bound.
fn is_near_most(offsets: &[Offset], others: usize) -> bool {
    can_be_near_most(offsets, others, 0)
}

/// Returns the same on the assumption that `unheard` more of the others are within the bound.
fn can_be_near_most(offsets: &[Offset], others: usize, unheard: usize) -> bool {
    let is_near = |offset: &&Offset| {
        u128::from(offset.nanos.unsigned_abs()) <= (MAX_OFFSET + offset.error).as_nanos()
    };
    let near = offsets.iter().filter(is_near);
    2 * (near.count() + unheard + 1) > others
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn the_offset_is_that_of_the_middle_of_the_round_trip() {
        let pong = pb::Pong {
            received_at: 5_000,
            answered_at: 5_200,
            ..Default::default()
        };
        assert_eq!(offset(1_000, &pong, 1_400), 3_900);
        assert_eq!(offset(10_000, &pong, 10_200), -5_000);
    }

    #[test]
    fn one_clock_that_is_off_is_detected() {
        // Two of three agree: the third is off, and each of them detects it.
        assert!(near_most(&[1000, 600 * SECOND]));
        assert!(!near_most(&[600 * SECOND, 600 * SECOND - 1000]));
        assert!(near_most(&[]));
        // Of two nodes, none knows which clock is wrong.
        assert!(near_most(&[600 * SECOND]));
        assert!(!near_most(&[-SECOND, -SECOND, -SECOND, 0]));
    }

    fn near_most(nanos: &[i64]) -> bool {
        let exact = |nanos: &i64| Offset {
            nanos: *nanos,
            error: Duration::ZERO,
        };
        is_near_most(&nanos.iter().map(exact).collect::<Vec<_>>(), nanos.len())
    }

    #[test]
    fn a_slow_round_trip_proves_no_clock_wrong() {
        let slow = |nanos| Offset {
            nanos,
            error: Duration::from_millis(300),
        };
        assert!(is_near_most(&[slow(SECOND / 2), slow(SECOND / 2)], 2));
        assert!(!is_near_most(&[slow(SECOND), slow(SECOND)], 2));
    }

    #[test]
    fn a_starting_node_does_not_trust_its_clock_after_one_of_two_answers() {
        let started = || Vitals::new(Clock::new(), 1, Arc::default());
        let record = |detector: &Vitals, node, offset| {
            detector.heard(node, Duration::from_millis(1), offset, &pb::Pong::default());
            detector.judge_clock(2);
            detector.clock_ok()
        };
        let off = started();
        assert!(!record(&off, 7, -600 * SECOND));
        assert!(!record(&off, 8, -600 * SECOND));
        let right = started();
        assert!(record(&right, 7, 0));
        assert!(record(&right, 8, -600 * SECOND));
    }

    #[test]
    fn a_node_reports_its_clock_state_and_logs_it_once() {
        let detector = Vitals::new(Clock::new(), 1, Arc::default());
        let record = |node, offset| {
            detector.heard(node, Duration::from_millis(1), offset, &pb::Pong::default());
            detector.judge_clock(3);
            let reply::Body::Pong(pong) = detector.pong(pb::Pong::default()) else {
                panic!("a ping is answered by a pong");
            };
            (pong.clock_off, detector.logged_off.load(Ordering::Acquire))
        };
        // Two nodes that agree with it would make its clock right.
        assert_eq!(record(7, -600 * SECOND), (true, false));
        assert_eq!(record(8, -600 * SECOND), (true, false));
        assert_eq!(record(9, -600 * SECOND), (true, true));
        // Silence of the others doesn't make its clock right.
        detector.seen.write().retain(|node, _| *node == 7);
        detector.judge_clock(3);
        assert!(!detector.clock_ok());
        for _ in 0..SAMPLES {
            record(7, 0);
            record(8, 0);
        }
        assert_eq!(record(9, -600 * SECOND), (false, false));
    }

    #[test]
    fn a_node_whose_clock_is_off_is_not_fit_to_lead() {
        let detector = Vitals::new(Clock::new(), 1, Arc::default());
        let record = |clock_off| {
            let pong = pb::Pong {
                clock_off,
                ..Default::default()
            };
            detector.heard(7, Duration::from_millis(1), 0, &pong);
            detector.fit_to_lead(7, Duration::ZERO)
        };
        assert!(record(false));
        assert!(!record(true));
        assert!(record(false));
    }

    #[test]
    fn a_starting_node_waits_until_it_knows_its_clock_state() {
        let is_ok = Arc::new(AtomicBool::new(false));
        let detector = Vitals::new(Clock::new(), 1, is_ok.clone());
        detector.judge_clock(1);
        assert!(!detector.clock_ok());
        let members = pb::GroupMembers {
            group: 3,
            nodes: vec![7, 8],
        };
        let pong = pb::Pong {
            leads: vec![3, 5],
            members: vec![members],
            ..Default::default()
        };
        detector.heard(7, Duration::from_millis(1), 0, &pong);
        detector.judge_clock(1);
        assert!(detector.clock_ok() && detector.lives(7));
        assert_eq!(detector.leader_of(GroupId(3), |_| true), Some(7));
        assert_eq!(detector.leader_of(GroupId(4), |_| true), None);
        assert!(
            detector.led_within(7, GroupId(3), ANSWER) && !detector.led_within(7, GroupId(4), ANSWER)
        );
        let members = |group| detector.members_of(GroupId(group), |_| true);
        assert_eq!(members(3), Some(vec![7, 8]));
        // The members are being changed.
        assert_eq!(members(5), None);
        assert_eq!(members(4), None);
        // Its last report as a leader is remembered for a while.
        detector.heard(7, Duration::from_millis(1), 0, &pb::Pong::default());
        assert_eq!(detector.leader_of(GroupId(3), |_| true), None);
        assert!(detector.led_within(7, GroupId(3), ANSWER));
        assert!(!detector.led_within(7, GroupId(3), Duration::ZERO));
        for node in [7, 8, 9] {
            for _ in 0..SAMPLES {
                detector.heard(node, Duration::from_millis(1), SECOND, &pong);
            }
        }
        detector.judge_clock(3);
        assert!(!is_ok.load(Ordering::Acquire));
    }
}
