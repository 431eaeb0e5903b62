//! Which nodes live, and how far their clocks are apart.
//!
//! Nodes call each other a few times a second. Each call is a sample of the other one's clock, as
//! in NTP (RFC 5905): the offset is off by at most half the round trip, so of the last few samples
//! the one with the shortest counts.
//!
//! A node whose clock is further than the bound from those of most others must neither lead nor
//! expire nor write: a clock ten minutes ahead would expire everything early, and win every
//! conflict. A node that has just started can't tell: who answers first may be the one of two that
//! its own clock is far from. It waits until it agrees with most nodes that it knows, or for a
//! moment; then those count that it hears. A node that has found its clock wrong trusts it again
//! only when it agrees with most nodes that it knows: those that contradict it may just be silent.
//!
//! Nodes say so in their answers. Leadership is handed to no node that says that its clock is off.

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

/// How often each node is called.
const EVERY: Duration = Duration::from_millis(250);
/// Time for the answer.
const ANSWER: Duration = Duration::from_millis(900);
/// A node that wasn't heard of for this long isn't counted as living.
const SILENT: Duration = Duration::from_millis(1500);
/// Samples of which the best counts.
const SAMPLES: usize = 8;
/// The furthest that a clock may be from the others.
pub const MAX_OFFSET: Duration = Duration::from_millis(250);
/// A node that hears nobody for this long after its start takes its clock for right, and one that
/// hears few goes by those.
const ALONE_AFTER: Duration = Duration::from_secs(5);

/// What is known of another node.
#[derive(Clone, Debug)]
pub struct Vital {
    /// When it last answered.
    pub heard: Instant,
    /// Since when it has answered without a gap.
    pub since: Instant,
    /// How far its clock is ahead of this node's, in nanoseconds.
    pub offset: i64,
    /// The shortest of the last round trips.
    pub round_trip: Duration,
    /// The highest feature level that it supports.
    pub level: u32,
    /// Whether it trusts its own clock, and thus may lead.
    pub clock_ok: bool,
}

#[derive(Debug)]
struct History {
    samples: VecDeque<(Duration, i64)>,
    heard: Instant,
    since: Instant,
    level: u32,
    leads: Vec<u32>,
    /// When it last said so of each group.
    led: HashMap<u32, Instant>,
    members: Vec<pb::GroupMembers>,
    clock_ok: bool,
    disk_low: bool,
    catching_up: bool,
    damaged: Vec<u32>,
}

/// The other nodes' signs of life.
#[derive(Debug)]
pub struct Vitals {
    clock: Clock,
    level: u32,
    started: Instant,
    seen: RwLock<HashMap<NodeId, History>>,
    clock_ok: Arc<AtomicBool>,
    /// Whether it was logged that the clock is off, since it last was right.
    logged_off: AtomicBool,
}

impl Vitals {
    /// Nobody heard of yet. `clock_ok` says whether this node's clock may be trusted: true only
    /// once that is known.
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

    /// Calls the other nodes until `stop`.
    pub async fn watch(self: Arc<Self>, peers: Arc<Peers>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let known = peers.known();
            self.seen.write().retain(|node, _| known.contains(node));
            for node in &known {
                let (vitals, peers, node) = (self.clone(), peers.clone(), *node);
                tokio::spawn(async move { vitals.call(&peers, node).await });
            }
            self.judge_clock(known.len());
        }
    }

    async fn call(&self, peers: &Peers, node: NodeId) {
        let (asked, sent_at) = (Instant::now(), self.clock.now());
        let body = call::Body::Ping(pb::Ping { sent_at });
        let reply = peers.call(node, Lane::Raft, body, ANSWER).await;
        if let Ok(reply::Body::Pong(pong)) = reply {
            let round_trip = asked.elapsed();
            let offset = offset(sent_at, &pong, self.clock.now());
            self.heard(node, round_trip, offset, &pong);
            peers.set_may_lead(node, !pong.clock_off);
        }
    }

    fn heard(&self, node: NodeId, round_trip: Duration, offset: i64, pong: &pb::Pong) {
        let now = Instant::now();
        let mut seen = self.seen.write();
        let history = seen.entry(node).or_insert_with(|| History {
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

    /// Returns what this node answers when it is called: what `state` says of it, with the clock.
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

    /// The nodes whose state of a group is damaged, as they said when they were last heard.
    pub fn damaged(&self, group: GroupId) -> Vec<NodeId> {
        let seen = self.seen.read();
        let damaged = seen.iter();
        let damaged = damaged.filter(|(_, it)| it.damaged.contains(&u32::from(group.0)));
        damaged.map(|(node, _)| *node).collect()
    }

    /// What is known of a node; `None` if nothing was heard of it yet.
    pub fn of(&self, node: NodeId) -> Option<Vital> {
        let seen = self.seen.read();
        let history = seen.get(&node)?;
        let best = history.samples.iter().min_by_key(|(trip, _)| *trip);
        let (round_trip, offset) = best.copied()?;
        Some(Vital {
            heard: history.heard,
            since: history.since,
            offset,
            round_trip,
            level: history.level,
            clock_ok: history.clock_ok,
        })
    }

    /// A node, one of those that `among` lets pass, that leads a group, as it said itself lately.
    pub fn leader_of(&self, group: GroupId, among: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let seen = self.seen.read();
        let leads = |history: &History| {
            history.heard.elapsed() < SILENT && history.leads.contains(&u32::from(group.0))
        };
        seen.iter()
            .find(|(node, history)| leads(history) && among(**node))
            .map(|(node, _)| *node)
    }

    /// Whether a node has said within a time that it leads a group, with a majority behind it.
    pub fn led_within(&self, node: NodeId, group: GroupId, time: Duration) -> bool {
        let seen = self.seen.read();
        let led = seen
            .get(&node)
            .and_then(|it| it.led.get(&u32::from(group.0)));
        led.is_some_and(|at| at.elapsed() < time)
    }

    /// The members of a group, as its leader said lately, if that is one of those that `among` lets
    /// pass; `None`: no leader is heard of, or the members are being changed.
    pub fn members_of(
        &self,
        group: GroupId,
        among: impl Fn(NodeId) -> bool,
    ) -> Option<Vec<NodeId>> {
        let leader = self.leader_of(group, among)?;
        let seen = self.seen.read();
        let mut told = seen.get(&leader)?.members.iter();
        let told = told.find(|members| members.group == u32::from(group.0))?;
        Some(told.nodes.clone())
    }

    /// Whether a node's disk was below its low-water mark when it was last heard of.
    pub fn disk_is_low(&self, node: NodeId) -> bool {
        let seen = self.seen.read();
        seen.get(&node).is_some_and(|history| history.disk_low)
    }

    /// Whether a node lacked the state of shards in which it is to vote, when it was last heard of.
    pub fn is_catching_up(&self, node: NodeId) -> bool {
        let seen = self.seen.read();
        seen.get(&node).is_some_and(|history| history.catching_up)
    }

    /// Whether a node was heard of lately.
    pub fn lives(&self, node: NodeId) -> bool {
        self.of(node)
            .is_some_and(|vital| vital.heard.elapsed() < SILENT)
    }

    /// Whether a node may be given leadership: it has answered without a gap for `time`, and its
    /// clock is right.
    pub fn fit_to_lead(&self, node: NodeId, time: Duration) -> bool {
        let fit = |vital: Vital| {
            vital.heard.elapsed() < SILENT && vital.since.elapsed() > time && vital.clock_ok
        };
        self.of(node).is_some_and(fit)
    }

    /// Whether this node's clock is near enough to those of most others.
    pub fn clock_ok(&self) -> bool {
        self.clock_ok.load(Ordering::Acquire)
    }

    /// Judges by the nodes that live, out of so many others.
    fn judge_clock(&self, others: usize) {
        let nodes: Vec<NodeId> = self.seen.read().keys().copied().collect();
        let living = nodes.into_iter().filter(|node| self.lives(*node));
        let offsets: Vec<Offset> = living
            .filter_map(|node| self.of(node))
            .map(|vital| Offset {
                nanos: vital.offset,
                error: vital.round_trip / 2,
            })
            .collect();
        let was_off = self.logged_off.load(Ordering::Acquire);
        let settled = !was_off && (self.clock_ok() || self.started.elapsed() > ALONE_AFTER);
        let ok = if offsets.is_empty() {
            // Nobody to compare with: as it was, and right after a while.
            others == 0 || settled
        } else if settled {
            is_near_most(&offsets, offsets.len())
        } else {
            is_near_most(&offsets, others.max(offsets.len()))
        };
        let was = self.clock_ok.swap(ok, Ordering::AcqRel);
        // A node that starts knows it once those that it hasn't heard yet can't change it.
        let unheard = others.saturating_sub(offsets.len());
        let is_off = !ok && (settled || !can_be_near_most(&offsets, others, unheard));
        if is_off && !self.logged_off.swap(true, Ordering::AcqRel) {
            tracing::error!(
                ?offsets,
                "this node's clock is too far from the others: it neither leads nor writes"
            );
        } else if ok && !was {
            self.logged_off.store(false, Ordering::Release);
            tracing::info!("this node's clock agrees with the others");
        }
    }
}

/// How far the clock that answered is ahead, in nanoseconds.
fn offset(sent_at: Nanos, pong: &pb::Pong, back_at: Nanos) -> i64 {
    let there = i128::from(pong.received_at) + i128::from(pong.answered_at);
    let here = i128::from(sent_at) + i128::from(back_at);
    i64::try_from((there - here) / 2).unwrap_or(if there > here { i64::MAX } else { i64::MIN })
}

/// How far another clock is ahead, as measured.
#[derive(Clone, Copy, Debug)]
struct Offset {
    nanos: i64,
    /// How far the measurement may be off.
    error: Duration,
}

/// Whether at least half of all nodes, this one and so many others, are within the bound, as far as
/// can be told: on a busy machine a round trip can take longer than the bound.
fn is_near_most(offsets: &[Offset], others: usize) -> bool {
    can_be_near_most(offsets, others, 0)
}

/// The same, if `unheard` more of the others were within the bound.
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
    fn one_clock_that_is_off_is_told_from_the_others() {
        // Two of three agree: the third is off, and each of them sees it.
        assert!(near_most(&[1000, 600 * SECOND]));
        assert!(!near_most(&[600 * SECOND, 600 * SECOND - 1000]));
        assert!(near_most(&[]));
        // Of two, nobody knows which is wrong.
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
    fn a_node_that_starts_does_not_trust_its_clock_because_one_of_two_has_answered() {
        let started = || Vitals::new(Clock::new(), 1, Arc::default());
        let hear = |vitals: &Vitals, node, offset| {
            vitals.heard(node, Duration::from_millis(1), offset, &pb::Pong::default());
            vitals.judge_clock(2);
            vitals.clock_ok()
        };
        let off = started();
        assert!(!hear(&off, 7, -600 * SECOND));
        assert!(!hear(&off, 8, -600 * SECOND));
        let right = started();
        assert!(hear(&right, 7, 0));
        assert!(hear(&right, 8, -600 * SECOND));
    }

    #[test]
    fn a_node_says_of_its_clock_what_it_knows_and_complains_of_it_once() {
        let vitals = Vitals::new(Clock::new(), 1, Arc::default());
        let hear = |node, offset| {
            vitals.heard(node, Duration::from_millis(1), offset, &pb::Pong::default());
            vitals.judge_clock(3);
            let reply::Body::Pong(pong) = vitals.pong(pb::Pong::default()) else {
                panic!("a ping is answered by a pong");
            };
            (pong.clock_off, vitals.logged_off.load(Ordering::Acquire))
        };
        // Two that agree with it would make its clock right.
        assert_eq!(hear(7, -600 * SECOND), (true, false));
        assert_eq!(hear(8, -600 * SECOND), (true, false));
        assert_eq!(hear(9, -600 * SECOND), (true, true));
        // That others are silent makes its clock no better.
        vitals.seen.write().retain(|node, _| *node == 7);
        vitals.judge_clock(3);
        assert!(!vitals.clock_ok());
        for _ in 0..SAMPLES {
            hear(7, 0);
            hear(8, 0);
        }
        assert_eq!(hear(9, -600 * SECOND), (false, false));
    }

    #[test]
    fn a_node_whose_clock_is_off_is_not_fit_to_lead() {
        let vitals = Vitals::new(Clock::new(), 1, Arc::default());
        let hear = |clock_off| {
            let pong = pb::Pong {
                clock_off,
                ..Default::default()
            };
            vitals.heard(7, Duration::from_millis(1), 0, &pong);
            vitals.fit_to_lead(7, Duration::ZERO)
        };
        assert!(hear(false));
        assert!(!hear(true));
        assert!(hear(false));
    }

    #[test]
    fn a_node_that_starts_waits_until_it_can_tell() {
        let ok = Arc::new(AtomicBool::new(false));
        let vitals = Vitals::new(Clock::new(), 1, ok.clone());
        vitals.judge_clock(1);
        assert!(!vitals.clock_ok());
        let members = pb::GroupMembers {
            group: 3,
            nodes: vec![7, 8],
        };
        let pong = pb::Pong {
            leads: vec![3, 5],
            members: vec![members],
            ..Default::default()
        };
        vitals.heard(7, Duration::from_millis(1), 0, &pong);
        vitals.judge_clock(1);
        assert!(vitals.clock_ok() && vitals.lives(7));
        assert_eq!(vitals.leader_of(GroupId(3), |_| true), Some(7));
        assert_eq!(vitals.leader_of(GroupId(4), |_| true), None);
        assert!(
            vitals.led_within(7, GroupId(3), ANSWER) && !vitals.led_within(7, GroupId(4), ANSWER)
        );
        let members = |group| vitals.members_of(GroupId(group), |_| true);
        assert_eq!(members(3), Some(vec![7, 8]));
        // Its members are being changed.
        assert_eq!(members(5), None);
        assert_eq!(members(4), None);
        // That it led is remembered for a while when it says so no more.
        vitals.heard(7, Duration::from_millis(1), 0, &pb::Pong::default());
        assert_eq!(vitals.leader_of(GroupId(3), |_| true), None);
        assert!(vitals.led_within(7, GroupId(3), ANSWER));
        assert!(!vitals.led_within(7, GroupId(3), Duration::ZERO));
        for node in [7, 8, 9] {
            for _ in 0..SAMPLES {
                vitals.heard(node, Duration::from_millis(1), SECOND, &pong);
            }
        }
        vitals.judge_clock(3);
        assert!(!ok.load(Ordering::Acquire));
    }
}
