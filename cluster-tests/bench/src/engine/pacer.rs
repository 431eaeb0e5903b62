//! Paces requests at a fixed rate.
//!
//! Each request is sent when it is due, and not together with those that are due in the same
//! millisecond, which is the resolution of epoll's timeout: a kernel timer wakes the thread. In
//! bursts a request would wait for those before it, in the client and in the server, and the size
//! of the bursts would depend on when the server's responses wake the client.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::spec::LoadSpec;
use super::window::MeasureWindow;

/// Maximum delay that is caught up; requests due before that are skipped.
const MAX_CATCH_UP: Duration = Duration::from_millis(50);
/// Token of the timer's events.
pub(super) const TIMER: Token = Token(usize::MAX);

/// Schedule of a thread's requests, and the connections to send them on.
pub(super) struct Pacer {
    interval: Duration,
    next_due: Instant,
    timer: OwnedFd,
    /// Time that the timer is set to.
    timer_deadline: Option<Instant>,
    /// Connections without a request in flight, the longest waiting first.
    waiting: VecDeque<usize>,
}

impl Pacer {
    /// Creates the pacer of this thread's share of the rate, if there is one.
    pub(super) fn for_thread(
        spec: &LoadSpec,
        window: MeasureWindow,
        registry: &Registry,
    ) -> Result<Option<Self>> {
        let Some(rate) = spec.rate else {
            return Ok(None);
        };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("create timer")?;
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
            .context("wait for timer")?;
        Ok(Some(Self {
            interval: Duration::from_secs_f64(spec.threads as f64 / rate),
            next_due: window.start - spec.warmup,
            timer,
            timer_deadline: None,
            waiting: VecDeque::new(),
        }))
    }

    /// Queues a connection that has no request in flight.
    pub(super) fn enqueue(&mut self, token: usize) {
        if !self.waiting.contains(&token) {
            self.waiting.push_back(token);
        }
    }

    /// Sets the timer to when the next request is due, if a connection waits for it.
    pub(super) fn arm(&mut self, now: Instant) -> Result<()> {
        if self.waiting.is_empty() || self.timer_deadline == Some(self.next_due) {
            return Ok(());
        }
        // Zero would disarm it.
        let left = self
            .next_due
            .saturating_duration_since(now)
            .as_nanos()
            .max(1);
        let left = i64::try_from(left).context("time to the next request")?;
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: left / 1_000_000_000,
                tv_nsec: left % 1_000_000_000,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time).context("set timer")?;
        self.timer_deadline = Some(self.next_due);
        Ok(())
    }

    /// Returns the connection to send the next due request on.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        if self.next_due > now {
            return None;
        }
        let token = self.waiting.pop_front()?;
        self.next_due = (self.next_due + self.interval).max(now - MAX_CATCH_UP);
        Some(token)
    }
}
