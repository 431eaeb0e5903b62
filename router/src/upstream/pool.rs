//! Idle connections to a node, for each thread its own: they are driven on the thread that opened
//! them, and no other one waits for a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;

use super::outgoing::Outgoing;
use super::stream::Accepted;

/// A connection that was idle for this long is closed: well before the node would close it, since
/// the fate of a request is unknown that meets the end of its connection.
const IDLE: Duration = Duration::from_secs(20);

/// Sends requests over one connection.
#[derive(Debug)]
pub struct Sender {
    pub(super) requests: SendRequest<Outgoing>,
    pub(super) accepted: Accepted,
}

/// Idle connections to one node.
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

/// An open connection, as it counts.
#[derive(Debug)]
pub(super) struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pools {
    /// No connection yet, for so many threads.
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

    /// The connection that was used last, of those that can be used.
    pub fn take(&self, worker: usize, now: Instant) -> Option<Sender> {
        let mut idle = self.of(worker).lock();
        let usable = |idle: &Idle| {
            idle.sender.requests.is_ready() && now.saturating_duration_since(idle.since) < IDLE
        };
        let place = idle.iter().rposition(usable)?;
        Some(idle.swap_remove(place).sender)
    }

    /// Keeps a connection whose last request was sent, and whose last answer read, to its end.
    pub fn put(&self, worker: usize, sender: Sender, now: Instant) {
        if sender.requests.is_closed() {
            return;
        }
        let since = now;
        self.of(worker).lock().push(Idle { sender, since });
    }

    /// Closes connections that are idle for too long.
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

    /// Counts a connection as open, if there are fewer than `most`.
    pub(super) fn open(&self, most: usize) -> Option<Open> {
        let more = |open: usize| (open < most).then_some(open + 1);
        let counted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.is_ok().then(|| Open(self.open.clone()))
    }

    /// Open connections.
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
