//! Idle connections to a node, per thread: they are driven by the thread that opened them, and no
//! other thread waits for a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;

use super::outgoing::Outgoing;
use super::stream::Accepted;

/// Time after which an idle connection is closed: well before the node would close it, since the
/// outcome of a request is unknown if its connection is closed meanwhile.
const IDLE: Duration = Duration::from_secs(20);

/// A connection to a node, over which requests are sent.
#[derive(Debug)]
pub struct Sender {
    pub(super) requests: SendRequest<Outgoing>,
    pub(super) accepted: Accepted,
}

/// Idle connections to one node, per thread.
#[derive(Debug)]
pub struct Pools {
    workers: Box<[CachePadded<Mutex<Vec<Idle>>>]>,
    open: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

/// Guard of an open connection, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pools {
    /// Creates empty pools for a number of threads.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers.max(1))
                .map(|_| CachePadded::default())
                .collect(),
            open: Arc::default(),
        }
    }

    fn of(&self, worker: usize) -> &Mutex<Vec<Idle>> {
        &self.workers[worker % self.workers.len()]
    }

    /// Takes the most recently used connection that is still usable.
    pub fn take(&self, worker: usize, now: Instant) -> Option<Sender> {
        let mut idle = self.of(worker).lock();
        let is_usable = |idle: &Idle| {
            idle.sender.requests.is_ready() && now.saturating_duration_since(idle.since) < IDLE
        };
        let index = idle.iter().rposition(is_usable)?;
        Some(idle.swap_remove(index).sender)
    }

    /// Returns a connection to the pool. Its last request must have been sent, and its last
    /// response been read, completely.
    pub fn put(&self, worker: usize, connection: Sender, now: Instant) {
        if connection.requests.is_closed() {
            return;
        }
        let since = now;
        let idle = Idle {
            sender: connection,
            since,
        };
        self.of(worker).lock().push(idle);
    }

    /// Closes connections that have been idle for too long.
    pub fn tidy(&self, now: Instant) {
        for idle in &self.workers {
            idle.lock().retain(|idle| {
                !idle.sender.requests.is_closed()
                    && now.saturating_duration_since(idle.since) < IDLE
            });
        }
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        for idle in &self.workers {
            idle.lock().clear();
        }
    }

    /// Counts a connection as open, if there are fewer than `max`.
    pub(super) fn open(&self, max: usize) -> Option<Open> {
        let increment = |open: usize| (open < max).then_some(open + 1);
        let counted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment);
        counted.is_ok().then(|| Open(self.open.clone()))
    }

    /// Number of open connections.
    pub fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_connections_are_bounded() {
        let pools = Pools::new(2);
        let first = pools.open(2).unwrap();
        let _second = pools.open(2).unwrap();
        assert!(pools.open(2).is_none());
        drop(first);
        assert_eq!(pools.open_connections(), 1);
        assert!(pools.open(2).is_some());
    }
}
