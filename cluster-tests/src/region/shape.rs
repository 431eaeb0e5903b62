//! What a link between two nodes does to the bytes that pass it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// One of a link's two directions, told by what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the node that dialled.
    Requests,
    /// To the node that dialled.
    Replies,
}

/// What happens to bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Nothing passes, and nothing is told: as packets that are dropped.
    pub cut: bool,
    /// How long bytes are under way.
    pub delay: Duration,
    /// Up to this much longer, at random.
    pub jitter: Duration,
    /// Of 1000 pieces, how many are held up by 50 to 400 ms, as a lost packet does to a stream.
    pub stalls: u64,
    /// Of 1000 pieces, how many take the connection with them.
    pub resets: u64,
    /// Bytes a second that pass, all connections of the link together; 0: as many as come.
    pub rate: u64,
}

/// What a link does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkShape {
    /// From the node that dials to the other one.
    pub requests: Flow,
    /// The way back.
    pub replies: Flow,
    /// Connections are reset: those that are there, and new ones.
    pub refuse: bool,
}

impl LinkShape {
    /// Nothing passes either way.
    pub fn cut() -> Self {
        let flow = Flow {
            cut: true,
            ..Flow::default()
        };
        Self {
            requests: flow,
            replies: flow,
            refuse: false,
        }
    }

    /// One direction.
    pub fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::Requests => &self.requests,
            Direction::Replies => &self.replies,
        }
    }

    /// One direction, to change it.
    pub fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::Requests => &mut self.requests,
            Direction::Replies => &mut self.replies,
        }
    }
}

/// What a link has done so far. A fault that met no bytes didn't happen.
#[derive(Debug, Default)]
pub struct LinkStats {
    /// Pieces that came while their direction was cut.
    pub held: AtomicU64,
    /// Pieces that were delayed.
    pub delayed: AtomicU64,
    /// Pieces that were held up as if lost.
    pub stalled: AtomicU64,
    /// Connections that were reset.
    pub reset: AtomicU64,
    /// Bytes that have passed.
    pub passed: AtomicU64,
    /// Until when each direction is busy with what it was given, if its rate is limited.
    busy_until: [Mutex<Option<Instant>>; 2],
}

impl LinkStats {
    /// One more.
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the time that so many bytes need in a direction, behind those that came before; returns
    /// when they have passed.
    pub(super) fn passes_at(&self, direction: Direction, bytes: usize, rate: u64) -> Instant {
        let busy_until = &self.busy_until[direction as usize];
        let mut busy_until = busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let passed = busy_until.map_or(now, |until| until.max(now)) + takes;
        *busy_until = Some(passed);
        passed
    }

    /// How many pieces and connections met any fault.
    pub fn total(&self) -> u64 {
        [&self.held, &self.delayed, &self.stalled, &self.reset]
            .map(|counter| counter.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}
