//! State of a connection: its activity, which the sweep reads, and the directives that it gets.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;

/// Directive to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Continue to serve.
    Serve = 0,
    /// Take no more requests, finish those under way.
    Drain = 1,
    /// End now if no request is under way, otherwise drain.
    Evict = 2,
    /// End now.
    Cut = 3,
}

/// Activity and directive of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    reads: AtomicU32,
    writes: AtomicU32,
    started: AtomicU32,
    finished: AtomicU32,
    write_blocked: AtomicBool,
    http2: AtomicBool,
    linger: AtomicBool,
    /// Bytes of responses that wait to be sent.
    held: AtomicUsize,
    /// Number of chunks of counted responses that were sent.
    parts: AtomicU32,
    /// Begin of its idle time as of the last sweep, in milliseconds of this process; 0: no sweep
    /// yet.
    idle_since: AtomicU64,
    /// Number of requests begun at the last sweep.
    idle_started: AtomicU32,
    order: AtomicU8,
    waker: AtomicWaker,
}

/// Activity of a connection at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Number of reads that returned bytes.
    pub(crate) reads: u32,
    /// Number of writes that the socket took.
    pub(crate) writes: u32,
    /// Number of requests begun.
    pub(crate) started: u32,
    /// Number of requests being answered.
    pub(crate) running: u32,
    /// True while the socket takes no more bytes.
    pub(crate) write_blocked: bool,
    /// True if it speaks HTTP/2.
    pub(crate) http2: bool,
    /// Bytes of responses that wait to be sent.
    pub(crate) held: usize,
    /// Number of chunks of counted responses that were sent.
    pub(crate) parts: u32,
}

impl Pulse {
    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.write_blocked.load(Ordering::Relaxed) {
            self.write_blocked.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn write_blocked(&self) {
        self.write_blocked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn speaks_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// Marks a request as running until the guard is dropped; also returns its number.
    pub(crate) fn begin(&self) -> (Running<'_>, u32) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        (Running(self), number)
    }

    /// Records that bytes of the client will be left unread, so that the socket must linger.
    pub(crate) fn will_linger(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    pub(crate) fn lingers(&self) -> bool {
        self.linger.load(Ordering::Relaxed)
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    pub(crate) fn marks(&self) -> Marks {
        let finished = self.finished.load(Ordering::Relaxed);
        let started = self.started.load(Ordering::Relaxed);
        Marks {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            started,
            running: started.wrapping_sub(finished),
            write_blocked: self.write_blocked.load(Ordering::Relaxed),
            http2: self.is_http2(),
            held: self.held.load(Ordering::Relaxed),
            parts: self.parts.load(Ordering::Relaxed),
        }
    }

    /// Counts pending bytes of a response; returns their new number.
    pub(crate) fn hold(&self, bytes: usize) -> usize {
        self.held.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Discounts pending bytes of a response; returns their new number.
    pub(crate) fn release(&self, bytes: usize) -> usize {
        self.held
            .fetch_sub(bytes, Ordering::Relaxed)
            .saturating_sub(bytes)
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts a sent chunk of a counted response.
    pub(crate) fn answer_went(&self) {
        self.parts.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the begin of the idle time, which holds as long as `started` requests have begun.
    pub(crate) fn note_idle(&self, since: Instant, started: u32) {
        self.idle_since.store(millis(since), Ordering::Relaxed);
        self.idle_started.store(started, Ordering::Relaxed);
    }

    /// Returns the begin of the idle time, for comparisons: no request is under way, and no
    /// response is pending. `None` if it isn't idle, or has a directive to end anyway.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let activity = self.marks();
        if activity.running > 0 || activity.held > 0 || activity.write_blocked {
            return None;
        }
        if self.order() != Order::Serve {
            return None;
        }
        // A connection with a request since the last sweep has been idle for less than all others.
        let is_current = self.idle_started.load(Ordering::Relaxed) == activity.started;
        let since = self.idle_since.load(Ordering::Relaxed);
        Some(if is_current { since } else { u64::MAX })
    }

    /// Ends the connection if it is idle, in favor of others.
    pub(crate) fn evict(&self) {
        self.command(Order::Evict);
    }

    /// Issues a directive and wakes the connection. Directives only become stricter.
    pub(crate) fn command(&self, directive: Order) {
        self.order.fetch_max(directive as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            2 => Order::Evict,
            _ => Order::Cut,
        }
    }

    /// Runs a future until it ends, or until a directive to end, and then returns `None`.
    pub(crate) async fn until_ordered<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.register(cx.waker());
            if self.order() != Order::Serve {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Registers the waker for directives. To be called before [`Self::directive`] is read.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// Converts a moment into milliseconds of this process; never 0.
fn millis(moment: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let start = *START;
    let since = moment.saturating_duration_since(start).as_millis();
    u64::try_from(since)
        .unwrap_or(u64::MAX - 1)
        .saturating_add(1)
}

/// Request that is being answered, until this is dropped.
pub(crate) struct Running<'a>(&'a Pulse);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.finished.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_run_until_their_guard_is_dropped() {
        let state = Pulse::default();
        let (running, number) = state.begin();
        assert_eq!(
            (number, state.marks().running, state.marks().started),
            (0, 1, 1)
        );
        drop(running);
        assert_eq!((state.marks().running, state.begin().1), (0, 1));
    }

    #[test]
    fn directives_only_become_stricter() {
        let state = Pulse::default();
        assert_eq!(state.order(), Order::Serve);
        state.command(Order::Evict);
        assert_eq!(state.order(), Order::Evict);
        state.command(Order::Cut);
        state.command(Order::Drain);
        assert_eq!(state.order(), Order::Cut);
    }

    #[test]
    fn a_write_ends_the_block() {
        let state = Pulse::default();
        state.write_blocked();
        assert!(state.marks().write_blocked);
        state.wrote();
        assert!(!state.marks().write_blocked);
    }
}
