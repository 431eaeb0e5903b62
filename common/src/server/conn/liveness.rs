//! Whether a connection is worth keeping: a pure function of its marks and the time.
//!
//! - No request, no byte: idle; drained after the idle timeout. Over HTTP/2, bytes that carry neither a
//!   request nor an answer, such as pings and what acknowledges them, change nothing.
//! - Bytes, but no request comes of them (HTTP/1): a slow head; cut after the header timeout. Over
//!   HTTP/2 bytes may be pings, so only the idle timeout counts.
//! - A request is running: the request's own deadlines count.
//! - The socket takes no byte of an answer, or the client's HTTP/2 windows let none go: stuck; cut
//!   after the write timeout.
//!
//! Times are as exact as the sweep is frequent, and never shorter than the setting.

use std::time::{Duration, Instant};

use crate::server::conn::pulse::{Marks, Order};
use crate::server::settings::HttpSettings;

/// The times that count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
}

impl Patience {
    pub(crate) fn of(settings: &HttpSettings) -> Self {
        Self {
            header: settings.header_timeout,
            idle: settings.idle_timeout,
            write: settings.write_timeout,
        }
    }

    /// How often connections should be looked at.
    pub(crate) fn interval(&self) -> Duration {
        let shortest = self.header.min(self.idle).min(self.write);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// What was seen of a connection so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    last: Marks,
    idle_since: Instant,
    head_since: Option<Instant>,
    blocked_since: Option<Instant>,
    waiting_since: Option<Instant>,
}

impl Watch {
    /// A connection that was just accepted.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            last: Marks::default(),
            idle_since: now,
            head_since: None,
            blocked_since: None,
            waiting_since: None,
        }
    }

    /// Since when it has been idle, as far as was seen.
    pub(crate) fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// Looks at a connection again and says what it should do.
    pub(crate) fn observe(&mut self, marks: Marks, now: Instant, patience: &Patience) -> Order {
        let last = std::mem::replace(&mut self.last, marks);
        self.blocked_since = match (marks.write_blocked, self.blocked_since) {
            (true, Some(since)) if marks.writes == last.writes => Some(since),
            (true, _) => Some(now),
            (false, _) => None,
        };
        // Over HTTP/1 an answer that waits blocks the socket.
        let waits = marks.http2 && marks.held > 0;
        self.waiting_since = match (waits, self.waiting_since) {
            (true, Some(since)) if marks.parts == last.parts => Some(since),
            (true, _) => Some(now),
            (false, _) => None,
        };
        let answered = if marks.http2 {
            marks.parts != last.parts
        } else {
            marks.writes != last.writes
        };
        let busy = marks.running > 0 || marks.write_blocked || answered;
        if busy || marks.started != last.started {
            self.idle_since = now;
            self.head_since = None;
        } else if marks.reads != last.reads && !marks.http2 {
            self.head_since.get_or_insert(now);
        }
        self.verdict(now, patience)
    }

    fn verdict(&self, now: Instant, patience: &Patience) -> Order {
        let longer = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let is_stuck =
            |since: Option<Instant>| since.is_some_and(|since| longer(since, patience.write));
        let stuck = is_stuck(self.blocked_since) || is_stuck(self.waiting_since);
        let slow = self
            .head_since
            .is_some_and(|since| longer(since, patience.header));
        if stuck || slow || longer(self.idle_since, patience.idle + patience.header) {
            Order::Cut
        } else if longer(self.idle_since, patience.idle) {
            Order::Drain
        } else {
            Order::Serve
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(30),
    };

    /// Looks every second while `marks` says what there is to see, and tells when the first order
    /// other than to serve came.
    fn first_order(seconds: u64, marks: impl Fn(u32) -> Marks) -> Option<(u64, Order)> {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        (1..=seconds).find_map(|second| {
            let now = start + Duration::from_secs(second);
            let order = watch.observe(marks(second as u32), now, &PATIENCE);
            (order != Order::Serve).then_some((second, order))
        })
    }

    #[test]
    fn silent_connections_are_drained() {
        assert_eq!(
            first_order(100, |_| Marks::default()),
            Some((60, Order::Drain))
        );
    }

    #[test]
    fn heads_that_trickle_are_cut() {
        let trickle = |second| Marks {
            reads: second,
            ..Marks::default()
        };
        assert_eq!(first_order(100, trickle), Some((11, Order::Cut)));
        let one_byte = |_| Marks {
            reads: 1,
            ..Marks::default()
        };
        assert_eq!(first_order(100, one_byte), Some((11, Order::Cut)));
    }

    #[test]
    fn answers_that_no_window_lets_go_are_cut_and_slow_ones_are_not() {
        let waiting = |parts| Marks {
            started: 1,
            http2: true,
            held: 100_000,
            parts,
            ..Marks::default()
        };
        let pings = |second| Marks {
            reads: second,
            writes: second,
            ..waiting(1)
        };
        assert_eq!(first_order(100, pings), Some((31, Order::Cut)));
        assert_eq!(first_order(1000, |second| waiting(second / 20)), None);
    }

    #[test]
    fn pings_dont_keep_http2_alive_nor_kill_it() {
        let pings = |second| Marks {
            reads: second,
            writes: second,
            http2: true,
            ..Marks::default()
        };
        assert_eq!(first_order(100, pings), Some((60, Order::Drain)));
    }

    #[test]
    fn busy_connections_live() {
        let requests = |second| Marks {
            reads: second,
            started: second,
            writes: second,
            ..Marks::default()
        };
        assert_eq!(first_order(1000, requests), None);
        let long = |_| Marks {
            reads: 1,
            started: 1,
            running: 1,
            ..Marks::default()
        };
        assert_eq!(first_order(1000, long), None);
    }

    #[test]
    fn stuck_answers_are_cut_and_slow_ones_are_not() {
        let stuck = |_| Marks {
            started: 1,
            writes: 1,
            write_blocked: true,
            ..Marks::default()
        };
        assert_eq!(first_order(100, stuck), Some((31, Order::Cut)));
        let slow = |second| Marks {
            started: 1,
            writes: second / 20,
            write_blocked: true,
            ..Marks::default()
        };
        assert_eq!(first_order(1000, slow), None);
    }

    #[test]
    fn drained_connections_that_stay_are_cut() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let order = watch.observe(Marks::default(), start + Duration::from_secs(70), &PATIENCE);
        assert_eq!(order, Order::Cut);
    }
}
