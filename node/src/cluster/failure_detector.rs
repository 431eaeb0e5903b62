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
use crate::rpc::{Peers, StreamKind};
use crate::store::keys::GroupId;
use crate::types::Nanos;

/// Interval at which each node is pinged.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// Time for a pong to arrive.
const PING_TIMEOUT: Duration = Duration::from_millis(900);
/// Silence after which a node no longer counts as alive.
const LIVENESS_TIMEOUT: Duration = Duration::from_millis(1500);
/// Number of recent clock samples of which the best counts.
const MAX_CLOCK_SAMPLES: usize = 8;
/// Maximum offset of a clock from the others.
pub(crate) const MAX_CLOCK_OFFSET: Duration = Duration::from_millis(250);
/// Grace period after a start: then a node without any pong trusts its clock, and one with few
/// pongs judges by those.
const STARTUP_GRACE_PERIOD: Duration = Duration::from_secs(5);

/// Health of another node, as far as known.
#[derive(Clone, Debug)]
pub struct NodeHealth {
    /// Time of the last pong.
    pub last_heard: Instant,
    /// Start of the current period of pongs without a gap.
    pub alive_since: Instant,
    /// Offset of the node's clock from this node's, in nanoseconds; positive if it is ahead.
    pub clock_offset: i64,
    /// Shortest of the last round trips.
    pub round_trip: Duration,
    /// Highest feature level that the node supports.
    pub feature_level: u32,
    /// True if the node trusts its own clock, and thus may lead.
    pub is_clock_ok: bool,
}

#[derive(Debug)]
struct PongHistory {
    samples: VecDeque<(Duration, i64)>,
    last_heard: Instant,
    alive_since: Instant,
    feature_level: u32,
    led_groups: Vec<u32>,
    /// Time of the last pong in which the node led the group, by group.
    last_led: HashMap<u32, Instant>,
    members: Vec<pb::GroupMembers>,
    is_clock_ok: bool,
    is_disk_low: bool,
    is_catching_up: bool,
    damaged_groups: Vec<u32>,
}

/// Liveness of the other nodes, and the offsets of their clocks.
#[derive(Debug)]
pub struct FailureDetector {
    clock: Clock,
    feature_level: u32,
    started_at: Instant,
    histories: RwLock<HashMap<NodeId, PongHistory>>,
    is_clock_ok: Arc<AtomicBool>,
    /// Set while the clock is off and that was logged.
    has_logged_clock_off: AtomicBool,
    /// Set while clocks differ, it isn't known whose is off, and that was logged.
    has_logged_undecided: AtomicBool,
}

impl FailureDetector {
    /// Creates a detector without any pong. `clock_ok` is set while this node's clock may be
    /// trusted: only once that is known.
    pub fn new(clock: Clock, level: u32, clock_ok: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            feature_level: level,
            started_at: Instant::now(),
            histories: RwLock::default(),
            is_clock_ok: clock_ok,
            has_logged_clock_off: AtomicBool::new(false),
            has_logged_undecided: AtomicBool::new(false),
        })
    }

    /// Pings the other nodes until `stop`.
    pub async fn run(self: Arc<Self>, peers: Arc<Peers>, stop: CancellationToken) {
        let mut interval = tokio::time::interval(PING_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            let known = peers.node_numbers();
            self.histories
                .write()
                .retain(|node, _| known.contains(node));
            for node in &known {
                let (detector, peers, node) = (self.clone(), peers.clone(), *node);
                tokio::spawn(async move { detector.ping(&peers, node).await });
            }
            if let Some(event) = self.update_clock_state(known.len()) {
                event.log(|node| peers.name_of(node));
            }
        }
    }

    async fn ping(&self, peers: &Peers, node: NodeId) {
        let (started, sent_at) = (Instant::now(), self.clock.now());
        let body = call::Body::Ping(pb::Ping { sent_at });
        let reply = peers.call(node, StreamKind::Raft, body, PING_TIMEOUT).await;
        if let Ok(reply::Body::Pong(pong)) = reply {
            let round_trip = started.elapsed();
            let offset = clock_offset(sent_at, &pong, self.clock.now());
            self.record_pong(node, round_trip, offset, &pong);
            peers.set_may_lead(node, !pong.clock_off);
        }
    }

    fn record_pong(&self, node: NodeId, round_trip: Duration, offset: i64, pong: &pb::Pong) {
        let now = Instant::now();
        let mut histories = self.histories.write();
        let history = histories.entry(node).or_insert_with(|| PongHistory {
            samples: VecDeque::new(),
            last_heard: now,
            alive_since: now,
            feature_level: pong.level,
            led_groups: Vec::new(),
            last_led: HashMap::new(),
            members: Vec::new(),
            is_clock_ok: true,
            is_disk_low: false,
            is_catching_up: false,
            damaged_groups: Vec::new(),
        });
        if now.duration_since(history.last_heard) > LIVENESS_TIMEOUT {
            history.alive_since = now;
            // It may have been restarted, with another clock.
            history.samples.clear();
        }
        history.last_heard = now;
        history.feature_level = pong.level;
        history.led_groups.clone_from(&pong.leads);
        history
            .last_led
            .extend(pong.leads.iter().map(|group| (*group, now)));
        history.members.clone_from(&pong.members);
        history.is_clock_ok = !pong.clock_off;
        history.is_disk_low = pong.disk_low;
        history.is_catching_up = pong.catching_up;
        history.damaged_groups.clone_from(&pong.damaged);
        history.samples.push_back((round_trip, offset));
        while history.samples.len() > MAX_CLOCK_SAMPLES {
            history.samples.pop_front();
        }
    }

    /// Builds the answer to a ping: `state` with the clock and the feature level.
    pub fn pong(&self, state: pb::Pong) -> reply::Body {
        let now = self.clock.now();
        reply::Body::Pong(pb::Pong {
            received_at: now,
            answered_at: now,
            level: self.feature_level,
            clock_off: !self.is_clock_ok(),
            ..state
        })
    }

    /// Nodes whose state of a group is damaged, as of their last pong.
    pub fn damaged_replicas(&self, group: GroupId) -> Vec<NodeId> {
        let histories = self.histories.read();
        let nodes = histories.iter();
        let nodes = nodes.filter(|(_, it)| it.damaged_groups.contains(&u32::from(group.0)));
        nodes.map(|(node, _)| *node).collect()
    }

    /// Health of a node; `None` if it never answered.
    pub fn health(&self, node: NodeId) -> Option<NodeHealth> {
        let histories = self.histories.read();
        let history = histories.get(&node)?;
        let fastest = history
            .samples
            .iter()
            .min_by_key(|(round_trip, _)| *round_trip);
        let (round_trip, offset) = fastest.copied()?;
        Some(NodeHealth {
            last_heard: history.last_heard,
            alive_since: history.alive_since,
            clock_offset: offset,
            round_trip,
            feature_level: history.feature_level,
            is_clock_ok: history.is_clock_ok,
        })
    }

    /// Finds a node that leads a group as of its recent last pong, among those for which `among`
    /// holds.
    pub fn leader_of(&self, group: GroupId, among: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let histories = self.histories.read();
        let is_leading = |history: &PongHistory| {
            history.last_heard.elapsed() < LIVENESS_TIMEOUT
                && history.led_groups.contains(&u32::from(group.0))
        };
        histories
            .iter()
            .find(|(node, history)| is_leading(history) && among(**node))
            .map(|(node, _)| *node)
    }

    /// Returns whether a node has reported within `time` that it leads a group, backed by a
    /// majority.
    pub fn has_led_within(&self, node: NodeId, group: GroupId, time: Duration) -> bool {
        let histories = self.histories.read();
        let last_led = histories
            .get(&node)
            .and_then(|it| it.last_led.get(&u32::from(group.0)));
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
        let histories = self.histories.read();
        let mut reported = histories.get(&leader)?.members.iter();
        let reported = reported.find(|members| members.group == u32::from(group.0))?;
        Some(reported.nodes.iter().copied().map(NodeId::from).collect())
    }

    /// Returns whether a node's disk was below its low-water mark, as of its last pong.
    pub fn is_disk_low(&self, node: NodeId) -> bool {
        let histories = self.histories.read();
        histories
            .get(&node)
            .is_some_and(|history| history.is_disk_low)
    }

    /// Returns whether a node lacked the state of shards in which it is to vote, as of its last
    /// pong.
    pub fn is_catching_up(&self, node: NodeId) -> bool {
        let histories = self.histories.read();
        histories
            .get(&node)
            .is_some_and(|history| history.is_catching_up)
    }

    /// Returns whether a node has answered recently.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.health(node)
            .is_some_and(|health| health.last_heard.elapsed() < LIVENESS_TIMEOUT)
    }

    /// Returns whether leadership may be transferred to a node: it has answered without a gap for
    /// `time`, and its clock is right.
    pub fn is_fit_to_lead(&self, node: NodeId, time: Duration) -> bool {
        let is_fit = |health: NodeHealth| {
            health.last_heard.elapsed() < LIVENESS_TIMEOUT
                && health.alive_since.elapsed() > time
                && health.is_clock_ok
        };
        self.health(node).is_some_and(is_fit)
    }

    /// Returns whether this node's clock is near enough to those of most others.
    pub fn is_clock_ok(&self) -> bool {
        self.is_clock_ok.load(Ordering::Acquire)
    }

    /// Offsets of the alive nodes' clocks.
    fn clock_offsets(&self) -> Vec<ClockOffset> {
        let mut nodes: Vec<NodeId> = self.histories.read().keys().copied().collect();
        nodes.sort_unstable();
        let alive = nodes.into_iter().filter(|node| self.is_alive(*node));
        let offset = |node| {
            let health = self.health(node)?;
            Some(ClockOffset {
                node,
                nanos: health.clock_offset,
                max_error: health.round_trip / 2,
            })
        };
        alive.filter_map(offset).collect()
    }

    /// Updates the judgement of this node's clock from the alive nodes, out of `others` other
    /// nodes. Returns what is to be logged.
    fn update_clock_state(&self, others: usize) -> Option<ClockEvent> {
        let offsets = self.clock_offsets();
        let was_off = self.has_logged_clock_off.load(Ordering::Acquire);
        let has_decided =
            !was_off && (self.is_clock_ok() || self.started_at.elapsed() > STARTUP_GRACE_PERIOD);
        let is_ok = if offsets.is_empty() {
            // Without other nodes to compare with, the judgement stays; after the grace period the
            // clock is right.
            others == 0 || has_decided
        } else if has_decided {
            is_near_majority(&offsets, offsets.len())
        } else {
            is_near_majority(&offsets, others.max(offsets.len()))
        };
        let was_ok = self.is_clock_ok.swap(is_ok, Ordering::AcqRel);
        // A starting node knows that its clock is off once the silent nodes can't change the
        // result.
        let unheard = others.saturating_sub(offsets.len());
        let is_off = !is_ok && (has_decided || !can_be_near_majority(&offsets, others, unheard));
        if is_off && !self.has_logged_clock_off.swap(true, Ordering::AcqRel) {
            return Some(ClockEvent::Off(offsets));
        }
        if is_ok && !was_ok {
            self.has_logged_clock_off.store(false, Ordering::Release);
        }
        if !is_ok || offsets.is_empty() {
            return None;
        }
        let is_undecided = is_undecided(&offsets);
        let was_undecided = self
            .has_logged_undecided
            .swap(is_undecided, Ordering::AcqRel);
        match (is_undecided, was_undecided) {
            (true, false) => Some(ClockEvent::Undecided(offsets)),
            (false, true) => Some(ClockEvent::Agrees),
            (false, false) if !was_ok => Some(ClockEvent::Agrees),
            (true, true) | (false, false) => None,
        }
    }
}

/// Change of what is known of this node's clock.
#[derive(Debug)]
enum ClockEvent {
    /// It is too far from most others.
    Off(Vec<ClockOffset>),
    /// It is too far from others, and too few nodes are heard to tell whose clock is off.
    Undecided(Vec<ClockOffset>),
    /// It is near enough to most others.
    Agrees,
}

impl ClockEvent {
    /// Logs the event with the names that `name_of` gives to nodes.
    fn log(&self, name_of: impl Fn(NodeId) -> String) {
        let list = |offsets: &[ClockOffset]| {
            let offsets = offsets.iter();
            let offsets = offsets.map(|it| format!("{}: {}", name_of(it.node), it.seconds()));
            offsets.collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Off(offsets) => tracing::error!(
                offsets = list(offsets),
                "this node's clock is too far from the others: it neither leads nor writes; set it \
                 right, with NTP, and restart the node"
            ),
            Self::Undecided(offsets) => tracing::warn!(
                offsets = list(offsets),
                "clocks differ, and too few nodes are heard to tell which one is off: set all \
                 right, with NTP, and restart the node that was off"
            ),
            Self::Agrees => tracing::info!("this node's clock agrees with the others"),
        }
    }
}

/// Computes how far the answering clock is ahead, in nanoseconds.
fn clock_offset(sent_at: Nanos, pong: &pb::Pong, returned_at: Nanos) -> i64 {
    let remote = i128::from(pong.received_at) + i128::from(pong.answered_at);
    let local = i128::from(sent_at) + i128::from(returned_at);
    i64::try_from((remote - local) / 2).unwrap_or(if remote > local { i64::MAX } else { i64::MIN })
}

/// Measured offset of another clock.
#[derive(Clone, Copy, Debug)]
struct ClockOffset {
    /// Node of that clock.
    node: NodeId,
    /// Nanoseconds by which it is ahead.
    nanos: i64,
    /// Maximum error of the measurement.
    max_error: Duration,
}

impl ClockOffset {
    /// Returns whether the clock is within the bound, as far as can be known: on a busy machine a
    /// round trip can take longer than the bound.
    fn is_near(&self) -> bool {
        u128::from(self.nanos.unsigned_abs()) <= (MAX_CLOCK_OFFSET + self.max_error).as_nanos()
    }

    /// Formats it in seconds, with its sign.
    fn seconds(&self) -> String {
        format!("{:+.1} s", self.nanos as f64 / 1e9)
    }
}

/// Returns whether more of the other clocks are far from this one than near: of two clocks that
/// differ, either may be off.
fn is_undecided(offsets: &[ClockOffset]) -> bool {
    let near = offsets.iter().filter(|offset| offset.is_near()).count();
    offsets.len() - near > near
}

/// Returns whether at least half of all nodes, this one and `others`, are within the bound, as far
/// as can be known.
fn is_near_majority(offsets: &[ClockOffset], others: usize) -> bool {
    can_be_near_majority(offsets, others, 0)
}

/// Returns the same on the assumption that `unheard` more of the others are within the bound.
fn can_be_near_majority(offsets: &[ClockOffset], others: usize, unheard: usize) -> bool {
    let near = offsets.iter().filter(|offset| offset.is_near());
    2 * (near.count() + unheard + 1) > others
}

#[cfg(test)]
#[path = "failure_detector_tests.rs"]
mod tests;
