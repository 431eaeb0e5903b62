//! A rate at which requests are sent.
//!
//! Each is sent when it is due, and not together with those that are due in the same millisecond,
//! which is as fine as epoll can be told to wait: a timer of the kernel's wakes the thread. In
//! bursts a request would wait for those before it, in the client and in the server, and how large
//! the bursts are would depend on how the server's answers happen to wake the client.

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

use super::{Spec, Window};

/// What wasn't sent for so long isn't made up for.
const BEHIND: Duration = Duration::from_millis(50);
/// The timer's place among the events.
pub const TIMER: Token = Token(usize::MAX);

/// When requests are due, and on which connections.
pub struct Pace {
    apart: Duration,
    due: Instant,
    timer: OwnedFd,
    /// What the timer is set to.
    set: Option<Instant>,
    /// Connections without a request, the longest waiting first.
    waiting: VecDeque<usize>,
}

impl Pace {
    /// This thread's share of the rate, if there is one.
    pub fn of(spec: &Spec, window: Window, registry: &Registry) -> Result<Option<Self>> {
        let Some(rate) = spec.rate else {
            return Ok(None);
        };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("create timer")?;
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)
            .context("wait for timer")?;
        Ok(Some(Self {
            apart: Duration::from_secs_f64(spec.threads as f64 / rate),
            due: window.start - spec.warmup,
            timer,
            set: None,
            waiting: VecDeque::new(),
        }))
    }

    /// A connection has no request under way.
    pub fn wait(&mut self, token: usize) {
        if !self.waiting.contains(&token) {
            self.waiting.push_back(token);
        }
    }

    /// Sets the timer to when the next request is due, if a connection waits for it.
    pub fn arm(&mut self, now: Instant) -> Result<()> {
        if self.waiting.is_empty() || self.set == Some(self.due) {
            return Ok(());
        }
        // Zero would disarm it.
        let left = self.due.saturating_duration_since(now).as_nanos().max(1);
        let left = i64::try_from(left).context("time to the next request")?;
        let time = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: left / 1_000_000_000,
                tv_nsec: left % 1_000_000_000,
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time).context("set timer")?;
        self.set = Some(self.due);
        Ok(())
    }

    /// The connection whose turn it is.
    pub fn next(&mut self, now: Instant) -> Option<usize> {
        if self.due > now {
            return None;
        }
        let token = self.waiting.pop_front()?;
        self.due = (self.due + self.apart).max(now - BEHIND);
        Some(token)
    }
}
