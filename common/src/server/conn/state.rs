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
pub(crate) enum Directive {
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
pub(crate) struct ConnectionState {
    reads: AtomicU32,
    writes: AtomicU32,
    started: AtomicU32,
    finished: AtomicU32,
    /// Number of responses of unknown length whose bodies haven't ended.
    open_streams: AtomicU32,
    /// True while a request's body is read on after its response has begun, over HTTP/1.
    is_body_read_on: AtomicBool,
    write_blocked: AtomicBool,
    is_http2: AtomicBool,
    should_linger: AtomicBool,
    /// Bytes of responses that wait to be sent.
    pending_bytes: AtomicUsize,
    /// Number of chunks of counted responses that were sent.
    sent_chunks: AtomicU32,
    /// Begin of its idle time as of the last sweep, in milliseconds of this process; 0: no sweep
    /// yet.
    idle_since: AtomicU64,
    /// Number of requests begun at the last sweep.
    started_at_idle: AtomicU32,
    directive: AtomicU8,
    waker: AtomicWaker,
}

/// Activity of a connection at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Number of reads that returned bytes.
    pub(crate) reads: u32,
    /// Number of writes that the socket took.
    pub(crate) writes: u32,
    /// Number of requests begun.
    pub(crate) started: u32,
    /// Number of requests being answered: until the end of the response if its length is unknown,
    /// else until it is there.
    pub(crate) running: u32,
    /// True while a request's body is read on after its response has begun, over HTTP/1.
    pub(crate) is_body_read_on: bool,
    /// True while the socket takes no more bytes.
    pub(crate) is_write_blocked: bool,
    /// True if it speaks HTTP/2.
    pub(crate) is_http2: bool,
    /// Bytes of responses that wait to be sent.
    pub(crate) pending_bytes: usize,
    /// Number of chunks of counted responses that were sent.
    pub(crate) sent_chunks: u32,
}

impl ConnectionState {
    pub(crate) fn record_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn record_write(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.write_blocked.load(Ordering::Relaxed) {
            self.write_blocked.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn record_write_blocked(&self) {
        self.write_blocked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_http2(&self) {
        self.is_http2.store(true, Ordering::Relaxed);
    }

    /// Marks a request as running until the guard is dropped; also returns its number.
    pub(crate) fn begin_request(&self) -> (RunningRequest<'_>, u32) {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        (RunningRequest(self), number)
    }

    /// Counts a response of unknown length, until [`Self::end_stream`].
    pub(crate) fn begin_stream(&self) {
        self.open_streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_stream(&self) {
        self.open_streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records whether a request's body is read on although its response has begun.
    pub(crate) fn set_body_read_on(&self, is_read_on: bool) {
        self.is_body_read_on.store(is_read_on, Ordering::Release);
    }

    /// Records that bytes of the client will be left unread, so that the socket must linger.
    pub(crate) fn set_linger(&self) {
        self.should_linger.store(true, Ordering::Relaxed);
    }

    pub(crate) fn should_linger(&self) -> bool {
        self.should_linger.load(Ordering::Relaxed)
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    pub(crate) fn activity(&self) -> Activity {
        let finished = self.finished.load(Ordering::Relaxed);
        let started = self.started.load(Ordering::Relaxed);
        let streams = self.open_streams.load(Ordering::Relaxed);
        Activity {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            started,
            running: started.wrapping_sub(finished).saturating_add(streams),
            is_body_read_on: self.is_body_read_on.load(Ordering::Acquire),
            is_write_blocked: self.write_blocked.load(Ordering::Relaxed),
            is_http2: self.is_http2(),
            pending_bytes: self.pending_bytes.load(Ordering::Relaxed),
            sent_chunks: self.sent_chunks.load(Ordering::Relaxed),
        }
    }

    /// Counts pending bytes of a response; returns their new number.
    pub(crate) fn add_pending(&self, bytes: usize) -> usize {
        self.pending_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Discounts pending bytes of a response; returns their new number.
    pub(crate) fn remove_pending(&self, bytes: usize) -> usize {
        self.pending_bytes
            .fetch_sub(bytes, Ordering::Relaxed)
            .saturating_sub(bytes)
    }

    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// Counts a sent chunk of a counted response.
    pub(crate) fn record_sent_chunk(&self) {
        self.sent_chunks.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the begin of the idle time, which holds as long as `started` requests have begun.
    pub(crate) fn set_idle_since(&self, since: Instant, started: u32) {
        self.idle_since
            .store(process_millis(since), Ordering::Relaxed);
        self.started_at_idle.store(started, Ordering::Relaxed);
    }

    /// Returns the begin of the idle time, for comparisons: no request is under way, and no
    /// response is pending. `None` if it isn't idle, or has a directive to end anyway.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let activity = self.activity();
        if activity.running > 0 || activity.pending_bytes > 0 || activity.is_write_blocked {
            return None;
        }
        if self.directive() != Directive::Serve {
            return None;
        }
        // A connection with a request since the last sweep has been idle for less than all others.
        let is_current = self.started_at_idle.load(Ordering::Relaxed) == activity.started;
        let since = self.idle_since.load(Ordering::Relaxed);
        Some(if is_current { since } else { u64::MAX })
    }

    /// Ends the connection if it is idle, in favor of others.
    pub(crate) fn evict(&self) {
        self.issue(Directive::Evict);
    }

    /// Issues a directive and wakes the connection. Directives only become stricter.
    pub(crate) fn issue(&self, directive: Directive) {
        self.directive.fetch_max(directive as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    pub(crate) fn directive(&self) -> Directive {
        match self.directive.load(Ordering::Acquire) {
            0 => Directive::Serve,
            1 => Directive::Drain,
            2 => Directive::Evict,
            _ => Directive::Cut,
        }
    }

    /// Runs a future until it ends, or until a directive to end, and then returns `None`.
    pub(crate) async fn run_until_directive<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.register_waker(cx.waker());
            if self.directive() != Directive::Serve {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    /// Registers the waker for directives. To be called before [`Self::directive`] is read.
    pub(crate) fn register_waker(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// Converts a moment into milliseconds of this process; never 0.
fn process_millis(moment: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let start = *START;
    let since = moment.saturating_duration_since(start).as_millis();
    u64::try_from(since)
        .unwrap_or(u64::MAX - 1)
        .saturating_add(1)
}

/// Request that is being answered, until this is dropped.
pub(crate) struct RunningRequest<'a>(&'a ConnectionState);

impl Drop for RunningRequest<'_> {
    fn drop(&mut self) {
        self.0.finished.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_run_until_their_guard_is_dropped() {
        let state = ConnectionState::default();
        let (running, number) = state.begin_request();
        assert_eq!(
            (number, state.activity().running, state.activity().started),
            (0, 1, 1)
        );
        drop(running);
        assert_eq!((state.activity().running, state.begin_request().1), (0, 1));
    }

    #[test]
    fn connections_with_open_streams_are_not_idle() {
        let state = ConnectionState::default();
        let (running, _) = state.begin_request();
        state.begin_stream();
        state.begin_stream();
        drop(running);
        assert_eq!(state.activity().running, 2);
        state.end_stream();
        assert_eq!((state.activity().running, state.idle_since()), (1, None));
        state.end_stream();
        assert!(state.idle_since().is_some());
    }

    #[test]
    fn directives_only_become_stricter() {
        let state = ConnectionState::default();
        assert_eq!(state.directive(), Directive::Serve);
        state.issue(Directive::Evict);
        assert_eq!(state.directive(), Directive::Evict);
        state.issue(Directive::Cut);
        state.issue(Directive::Drain);
        assert_eq!(state.directive(), Directive::Cut);
    }

    #[test]
    fn a_write_ends_the_block() {
        let state = ConnectionState::default();
        state.record_write_blocked();
        assert!(state.activity().is_write_blocked);
        state.record_write();
        assert!(!state.activity().is_write_blocked);
    }
}
