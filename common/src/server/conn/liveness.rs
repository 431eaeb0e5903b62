//! Timeouts of connections: a pure function of a connection's activity and the time.
//!
//! - No request, no byte: idle; drained after the idle timeout. Over HTTP/2, bytes that carry
//!   neither a request nor a response, such as pings and their acknowledgements, change nothing.
//! - Bytes, but no complete request (HTTP/1): a slow head; cut after the header timeout. Over
//!   HTTP/2 bytes may be pings, so only the idle timeout counts.
//! - A request is running, which includes a response of unknown length until its end: the request's
//!   own deadlines count. Such a response may wait for hours for what it tells.
//! - The socket takes no byte of a response, or the client's HTTP/2 windows admit none: stuck; cut
//!   after the write timeout. Over HTTP/1 a client may send its body to the end before it reads the
//!   response that began meanwhile: as long as bytes of the body come, it isn't stuck.
//!
//! Times are as exact as the sweep is frequent, and never shorter than the setting.

use std::time::{Duration, Instant};

use crate::server::conn::state::{Activity, Directive};
use crate::server::settings::HttpSettings;

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimeouts {
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
}

impl ConnectionTimeouts {
    pub(crate) fn from_settings(settings: &HttpSettings) -> Self {
        Self {
            header: settings.header_timeout,
            idle: settings.idle_timeout,
            write: settings.write_timeout,
        }
    }

    /// Returns the interval at which connections should be swept.
    pub(crate) fn sweep_interval(&self) -> Duration {
        let shortest = self.header.min(self.idle).min(self.write);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// Monitor of one connection: its activity at the last sweep, and since when it is idle or stuck.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionMonitor {
    last: Activity,
    idle_since: Instant,
    head_since: Option<Instant>,
    blocked_since: Option<Instant>,
    pending_since: Option<Instant>,
}

impl ConnectionMonitor {
    /// Creates a monitor for a connection that was just accepted.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            last: Activity::default(),
            idle_since: now,
            head_since: None,
            blocked_since: None,
            pending_since: None,
        }
    }

    /// Returns the begin of the idle time, as of the last sweep.
    pub(crate) fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Takes a connection's current activity and returns the directive for it.
    pub(crate) fn observe(
        &mut self,
        activity: Activity,
        now: Instant,
        timeouts: &ConnectionTimeouts,
    ) -> Directive {
        let last = std::mem::replace(&mut self.last, activity);
        let has_read_body = activity.is_body_read_on && activity.reads != last.reads;
        let has_progress = activity.writes != last.writes || has_read_body;
        self.blocked_since = match (activity.is_write_blocked, self.blocked_since) {
            (true, Some(since)) if !has_progress => Some(since),
            (true, _) => Some(now),
            (false, _) => None,
        };
        // Over HTTP/1 a pending response blocks the socket.
        let is_pending = activity.is_http2 && activity.pending_bytes > 0;
        self.pending_since = match (is_pending, self.pending_since) {
            (true, Some(since)) if activity.sent_chunks == last.sent_chunks => Some(since),
            (true, _) => Some(now),
            (false, _) => None,
        };
        let has_sent = if activity.is_http2 {
            activity.sent_chunks != last.sent_chunks
        } else {
            activity.writes != last.writes
        };
        let is_busy = activity.running > 0 || activity.is_write_blocked || has_sent;
        if is_busy || activity.started != last.started {
            self.idle_since = now;
            self.head_since = None;
        } else if activity.reads != last.reads && !activity.is_http2 {
            self.head_since.get_or_insert(now);
        }
        self.decide(now, timeouts)
    }

    fn decide(&self, now: Instant, timeouts: &ConnectionTimeouts) -> Directive {
        let exceeds = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let exceeds_write =
            |since: Option<Instant>| since.is_some_and(|since| exceeds(since, timeouts.write));
        let is_stuck = exceeds_write(self.blocked_since) || exceeds_write(self.pending_since);
        let is_slow = self
            .head_since
            .is_some_and(|since| exceeds(since, timeouts.header));
        if is_stuck || is_slow || exceeds(self.idle_since, timeouts.idle + timeouts.header) {
            Directive::Cut
        } else if exceeds(self.idle_since, timeouts.idle) {
            Directive::Drain
        } else {
            Directive::Serve
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: ConnectionTimeouts = ConnectionTimeouts {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(30),
    };

    /// Sweeps every second a connection with this activity, and returns the first directive other
    /// than to serve, and its time.
    fn first_directive(
        seconds: u64,
        activity: impl Fn(u32) -> Activity,
    ) -> Option<(u64, Directive)> {
        let start = Instant::now();
        let mut monitor = ConnectionMonitor::new(start);
        (1..=seconds).find_map(|second| {
            let now = start + Duration::from_secs(second);
            let directive = monitor.observe(activity(second as u32), now, &TIMEOUTS);
            (directive != Directive::Serve).then_some((second, directive))
        })
    }

    #[test]
    fn idle_connections_are_drained() {
        assert_eq!(
            first_directive(100, |_| Activity::default()),
            Some((60, Directive::Drain))
        );
    }

    #[test]
    fn connections_with_slow_heads_are_cut() {
        let trickle = |second| Activity {
            reads: second,
            ..Activity::default()
        };
        assert_eq!(first_directive(100, trickle), Some((11, Directive::Cut)));
        let one_byte = |_| Activity {
            reads: 1,
            ..Activity::default()
        };
        assert_eq!(first_directive(100, one_byte), Some((11, Directive::Cut)));
    }

    #[test]
    fn responses_without_a_window_are_cut_and_slow_ones_are_not() {
        let pending = |parts| Activity {
            started: 1,
            is_http2: true,
            pending_bytes: 100_000,
            sent_chunks: parts,
            ..Activity::default()
        };
        let pings = |second| Activity {
            reads: second,
            writes: second,
            ..pending(1)
        };
        assert_eq!(first_directive(100, pings), Some((31, Directive::Cut)));
        assert_eq!(first_directive(1000, |second| pending(second / 20)), None);
    }

    #[test]
    fn http2_pings_neither_prolong_nor_end_a_connection() {
        let pings = |second| Activity {
            reads: second,
            writes: second,
            is_http2: true,
            ..Activity::default()
        };
        assert_eq!(first_directive(100, pings), Some((60, Directive::Drain)));
    }

    #[test]
    fn busy_connections_are_kept() {
        let requests = |second| Activity {
            reads: second,
            started: second,
            writes: second,
            ..Activity::default()
        };
        assert_eq!(first_directive(1000, requests), None);
        let long = |_| Activity {
            reads: 1,
            started: 1,
            running: 1,
            ..Activity::default()
        };
        assert_eq!(first_directive(1000, long), None);
    }

    #[test]
    fn streams_that_wait_for_their_source_are_kept() {
        for is_http2 in [false, true] {
            // A few bytes now and then, and a client that sends some, too.
            let stream = |second: u32| Activity {
                reads: second,
                writes: second / 15,
                started: 1,
                running: 1,
                is_http2,
                sent_chunks: second / 15,
                ..Activity::default()
            };
            assert_eq!(first_directive(10_000, stream), None);
        }
    }

    #[test]
    fn a_response_may_wait_until_the_body_of_its_request_was_read() {
        let upload = |reads: u32| Activity {
            reads,
            writes: 1,
            started: 1,
            running: 1,
            is_body_read_on: true,
            is_write_blocked: true,
            ..Activity::default()
        };
        assert_eq!(first_directive(1000, |second| upload(second / 20)), None);
        let is_stuck = Some((31, Directive::Cut));
        assert_eq!(first_directive(100, |_| upload(1)), is_stuck);
        let not_of_the_body = |second| Activity {
            is_body_read_on: false,
            ..upload(second)
        };
        assert_eq!(first_directive(100, not_of_the_body), is_stuck);
    }

    #[test]
    fn stuck_responses_are_cut_and_slow_ones_are_not() {
        let stuck = |_| Activity {
            started: 1,
            writes: 1,
            is_write_blocked: true,
            ..Activity::default()
        };
        assert_eq!(first_directive(100, stuck), Some((31, Directive::Cut)));
        let slow = |second| Activity {
            started: 1,
            writes: second / 20,
            is_write_blocked: true,
            ..Activity::default()
        };
        assert_eq!(first_directive(1000, slow), None);
    }

    #[test]
    fn drained_connections_that_stay_open_are_cut() {
        let start = Instant::now();
        let mut monitor = ConnectionMonitor::new(start);
        let now = start + Duration::from_secs(70);
        assert_eq!(
            monitor.observe(Activity::default(), now, &TIMEOUTS),
            Directive::Cut
        );
    }
}
