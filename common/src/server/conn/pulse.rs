//! The marks that a connection leaves for who watches it, and the orders that come back.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Go on.
    Serve = 0,
    /// Take no more requests, finish those that there are.
    Drain = 1,
    /// End now if no request is under way; else it is to drain.
    Evict = 2,
    /// End now.
    Cut = 3,
}

/// Marks and orders of one connection.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    reads: AtomicU32,
    writes: AtomicU32,
    started: AtomicU32,
    finished: AtomicU32,
    write_blocked: AtomicBool,
    http2: AtomicBool,
    linger: AtomicBool,
    /// Bytes of answers that wait to be sent.
    held: AtomicUsize,
    /// Parts of counted answers that have gone.
    parts: AtomicU32,
    /// Since when it was idle when it was looked at last, in milliseconds of this process; 0: not yet.
    idle_since: AtomicU64,
    /// Requests that had begun by then.
    idle_started: AtomicU32,
    order: AtomicU8,
    waker: AtomicWaker,
}

/// All marks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Reads that brought bytes.
    pub(crate) reads: u32,
    /// Writes that the socket took.
    pub(crate) writes: u32,
    /// Requests begun.
    pub(crate) started: u32,
    /// Requests being answered.
    pub(crate) running: u32,
    /// Whether the socket takes no more bytes.
    pub(crate) write_blocked: bool,
    /// Whether it speaks HTTP/2.
    pub(crate) http2: bool,
    /// Bytes of answers that wait to be sent.
    pub(crate) held: usize,
    /// Parts of counted answers that have gone.
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

    /// Marks a request as running until the guard is dropped; also tells its number.
    pub(crate) fn begin(&self) -> (Running<'_>, u32) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        (Running(self), number)
    }

    /// Marks that bytes of the client will be left unread, so that the socket must linger.
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

    /// Counts bytes of an answer that wait; tells how many there are.
    pub(crate) fn hold(&self, bytes: usize) -> usize {
        self.held.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Bytes of an answer wait no longer; tells how many still do.
    pub(crate) fn release(&self, bytes: usize) -> usize {
        self.held
            .fetch_sub(bytes, Ordering::Relaxed)
            .saturating_sub(bytes)
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Marks that a part of a counted answer has gone.
    pub(crate) fn answer_went(&self) {
        self.parts.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes since when the connection has been idle, if it has begun no request since `started` of
    /// them.
    pub(crate) fn note_idle(&self, since: Instant, started: u32) {
        self.idle_since.store(millis(since), Ordering::Relaxed);
        self.idle_started.store(started, Ordering::Relaxed);
    }

    /// Since when it has been idle, for comparisons: no request is under way, and no answer waits.
    /// `None` if it isn't, or is told to end anyway.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let marks = self.marks();
        if marks.running > 0 || marks.held > 0 || marks.write_blocked {
            return None;
        }
        if self.order() != Order::Serve {
            return None;
        }
        // Who has asked since it was looked at has been idle for less than all others.
        let noted = self.idle_started.load(Ordering::Relaxed) == marks.started;
        let since = self.idle_since.load(Ordering::Relaxed);
        Some(if noted { since } else { u64::MAX })
    }

    /// Ends a connection that is idle, so that there is room for others.
    pub(crate) fn evict(&self) {
        self.command(Order::Evict);
    }

    /// Gives an order and wakes the connection. Orders only become stricter.
    pub(crate) fn command(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
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

    /// Waits for a future, or for an order to end; then it is `None`.
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

    /// Whom to wake for an order. To be called before [`Self::order`] is asked.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// A moment as milliseconds of this process; never 0.
fn millis(moment: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let start = *START;
    let since = moment.saturating_duration_since(start).as_millis();
    u64::try_from(since)
        .unwrap_or(u64::MAX - 1)
        .saturating_add(1)
}

/// A request that is being answered.
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
    fn requests_run_until_their_guard_goes() {
        let pulse = Pulse::default();
        let (running, number) = pulse.begin();
        assert_eq!(
            (number, pulse.marks().running, pulse.marks().started),
            (0, 1, 1)
        );
        drop(running);
        assert_eq!((pulse.marks().running, pulse.begin().1), (0, 1));
    }

    #[test]
    fn orders_only_become_stricter() {
        let pulse = Pulse::default();
        assert_eq!(pulse.order(), Order::Serve);
        pulse.command(Order::Evict);
        assert_eq!(pulse.order(), Order::Evict);
        pulse.command(Order::Cut);
        pulse.command(Order::Drain);
        assert_eq!(pulse.order(), Order::Cut);
    }

    #[test]
    fn a_write_ends_the_block() {
        let pulse = Pulse::default();
        pulse.write_blocked();
        assert!(pulse.marks().write_blocked);
        pulse.wrote();
        assert!(!pulse.marks().write_blocked);
    }
}
