//! Shape of a link between two nodes: its delays, losses and limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A direction of a link, relative to the node that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the node that dialled.
    Requests,
    /// To the node that dialled.
    Replies,
}

/// Treatment of bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowShape {
    /// Nothing passes, and the connection stays open: as with packets that are dropped.
    pub is_cut: bool,
    /// Latency.
    pub delay: Duration,
    /// Maximum random addition to the latency.
    pub jitter: Duration,
    /// Probability of a stall of 50 to 400 ms per chunk, in permille: a lost packet's effect on a
    /// stream.
    pub stalls_permille: u64,
    /// Probability of a connection reset per chunk, in permille.
    pub resets_permille: u64,
    /// Bandwidth in bytes per second, for all connections of the link together; 0: unlimited.
    pub bytes_per_sec: u64,
}

/// Behaviour of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkShape {
    /// From the node that dials to the other one.
    pub requests: FlowShape,
    /// From the other node to the one that dials.
    pub replies: FlowShape,
    /// Connections are reset, existing and new ones.
    pub resets_connections: bool,
}

impl LinkShape {
    /// Returns a shape in which nothing passes either way.
    pub fn cut() -> Self {
        let flow = FlowShape {
            is_cut: true,
            ..FlowShape::default()
        };
        Self {
            requests: flow,
            replies: flow,
            resets_connections: false,
        }
    }

    /// Returns one direction.
    pub fn flow(&self, direction: Direction) -> &FlowShape {
        match direction {
            Direction::Requests => &self.requests,
            Direction::Replies => &self.replies,
        }
    }

    /// Returns one direction, mutably.
    pub fn flow_mut(&mut self, direction: Direction) -> &mut FlowShape {
        match direction {
            Direction::Requests => &mut self.requests,
            Direction::Replies => &mut self.replies,
        }
    }
}

/// Counters of a link's effects. A fault that affected no bytes didn't happen.
#[derive(Debug, Default)]
pub struct LinkStats {
    /// Chunks that arrived while their direction was cut.
    pub held_back: AtomicU64,
    /// Chunks that were delayed.
    pub delayed: AtomicU64,
    /// Chunks that stalled as if a packet were lost.
    pub stalled: AtomicU64,
    /// Connections that were reset.
    pub reset: AtomicU64,
    /// Bytes that have passed.
    pub passed_bytes: AtomicU64,
    /// Time until which each direction is busy, if its rate is limited.
    busy_until: [Mutex<Option<Instant>>; 2],
}

impl LinkStats {
    /// Increments a counter.
    pub(super) fn increment(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Reserves the time that so many bytes need in a direction, after earlier ones; returns the
    /// time at which they have passed.
    pub(super) fn reserve(&self, direction: Direction, bytes: usize, rate: u64) -> Instant {
        let busy_until = &self.busy_until[direction as usize];
        let mut busy_until = busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let duration = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let passed = busy_until.map_or(now, |until| until.max(now)) + duration;
        *busy_until = Some(passed);
        passed
    }

    /// Returns the number of chunks and connections that any fault has affected.
    pub fn affected_count(&self) -> u64 {
        [&self.held_back, &self.delayed, &self.stalled, &self.reset]
            .map(|counter| counter.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}
