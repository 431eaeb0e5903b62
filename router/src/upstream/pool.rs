//! Idle connections to a node, per thread: they are driven by the thread that opened them, and no
//! other thread waits for a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;

use super::counting_stream::AcceptedBytes;
use super::request_body::UpstreamBody;

/// Time after which an idle connection is closed: well before the node would close it, since the
/// outcome of a request is unknown if its connection is closed meanwhile.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to a node, over which requests are sent.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    pub(super) requests: SendRequest<UpstreamBody>,
    pub(super) accepted: AcceptedBytes,
}

/// Idle connections to one node, per thread.
#[derive(Debug)]
pub(crate) struct ConnectionPools {
    workers: Box<[CachePadded<Mutex<Vec<IdleConnection>>>]>,
    open: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct IdleConnection {
    connection: PooledConnection,
    since: Instant,
}

/// Guard of an open connection, which counts until it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionPools {
    /// Creates empty pools for a number of threads.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers.max(1))
                .map(|_| CachePadded::default())
                .collect(),
            open: Arc::default(),
        }
    }

    fn worker_pool(&self, worker: usize) -> &Mutex<Vec<IdleConnection>> {
        &self.workers[worker % self.workers.len()]
    }

    /// Takes the most recently used connection that is still usable.
    pub(crate) fn take(&self, worker: usize, now: Instant) -> Option<PooledConnection> {
        let mut idle = self.worker_pool(worker).lock();
        let is_usable = |idle: &IdleConnection| {
            idle.connection.requests.is_ready()
                && now.saturating_duration_since(idle.since) < IDLE_TIMEOUT
        };
        let index = idle.iter().rposition(is_usable)?;
        Some(idle.swap_remove(index).connection)
    }

    /// Returns a connection to the pool. Its last request must have been sent, and its last
    /// response been read, completely.
    pub(crate) fn put(&self, worker: usize, connection: PooledConnection, now: Instant) {
        if connection.requests.is_closed() {
            return;
        }
        let since = now;
        let idle = IdleConnection { connection, since };
        self.worker_pool(worker).lock().push(idle);
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn close_expired(&self, now: Instant) {
        for idle in &self.workers {
            idle.lock().retain(|idle| {
                !idle.connection.requests.is_closed()
                    && now.saturating_duration_since(idle.since) < IDLE_TIMEOUT
            });
        }
    }

    /// Closes all idle connections.
    pub(crate) fn clear(&self) {
        for idle in &self.workers {
            idle.lock().clear();
        }
    }

    /// Counts a connection as open, if there are fewer than `max`.
    pub(super) fn try_open(&self, max: usize) -> Option<OpenConnection> {
        let increment = |open: usize| (open < max).then_some(open + 1);
        let counted = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment);
        counted.is_ok().then(|| OpenConnection(self.open.clone()))
    }

    /// Number of open connections.
    pub(crate) fn open_connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_connections_are_bounded() {
        let pools = ConnectionPools::new(2);
        let first = pools.try_open(2).unwrap();
        let _second = pools.try_open(2).unwrap();
        assert!(pools.try_open(2).is_none());
        drop(first);
        assert_eq!(pools.open_connections(), 1);
        assert!(pools.try_open(2).is_some());
    }
}
