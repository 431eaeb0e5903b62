//! A node as the router sees it. What may change is atomic: requests read it, and what becomes of
//! them changes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_proto::tls::{DialError, Dialer, Stream};
use http::HeaderValue;
use tokio::sync::Notify;

use crate::upstream::{Lanes, Pools, Reach};

/// Of a round trip's average, a new one counts for one part of this many.
const AVERAGE_OVER: u64 = 8;

/// A node. It stays the same while what is known of it changes, so that connections to it and
/// what was learnt of it last.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: u64,
    /// Where its public API is reached, as `host:port`.
    pub http: String,
    /// Where other nodes and routers reach it.
    pub rpc: String,
    /// Connections to it.
    pub pools: Pools,
    /// Streams of calls to it.
    pub lanes: Lanes,
    /// What says that requests come from a router, where it has no certificate that does.
    pub token: Option<HeaderValue>,
    dialer: Dialer,
    up: AtomicBool,
    draining: AtomicBool,
    /// Average round trip, in nanoseconds; 0: none yet.
    round_trip: AtomicU64,
    doubted: Notify,
}

impl Node {
    /// A node of a cluster that nothing bad is known of; `http` and `rpc` are where it is.
    pub fn new(cluster_id: &str, id: u64, (http, rpc): (&str, &str), reach: &Reach) -> Self {
        Self {
            id,
            http: http.to_owned(),
            rpc: rpc.to_owned(),
            pools: Pools::new(reach.workers),
            lanes: Lanes::new(cluster_id, id, rpc, reach),
            token: match reach.dialer.tls() {
                Some(_) => None,
                None => HeaderValue::from_str(cluster_id).ok(),
            },
            dialer: reach.dialer.clone(),
            up: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            round_trip: AtomicU64::new(0),
            doubted: Notify::new(),
        }
    }

    /// Connects to its public port: encrypted, and only to this node, if there are certificates.
    pub async fn connect(&self) -> Result<Stream, DialError> {
        self.dialer.connect_http(&self.http, &self.rpc).await
    }

    /// Whether requests should go to it: it answers, and it isn't about to stop.
    pub fn is_available(&self) -> bool {
        self.is_up() && !self.is_draining()
    }

    /// Whether it answered when it was last asked, by a check or by a request.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether it is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// It was checked, and answered after this time.
    pub fn answered(&self, after: Duration) {
        let new = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).max(1);
        let average = match self.round_trip.load(Ordering::Relaxed) {
            0 => new,
            old => (old - old / AVERAGE_OVER).saturating_add(new / AVERAGE_OVER),
        };
        self.round_trip.store(average.max(1), Ordering::Relaxed);
        if !self.up.swap(true, Ordering::Relaxed) {
            tracing::info!(node = self.id, http = self.http, "node answers again");
        }
    }

    /// It can't be reached. It gets no more requests until a check is answered.
    pub fn failed(&self, why: &dyn std::fmt::Display) {
        if self.up.swap(false, Ordering::Relaxed) {
            tracing::warn!(node = self.id, http = self.http, %why, "node doesn't answer");
        }
        self.doubted.notify_one();
    }

    /// A request to it came to nothing, which may or may not be its fault: it should be checked.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Waits until it should be checked at once.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// It says whether it is about to stop. If so, idle connections to it are closed: on one that
    /// is closed by the other side a request's fate can be unknown.
    pub fn drains(&self, draining: bool) {
        if self.draining.swap(draining, Ordering::Relaxed) == draining {
            return;
        }
        if draining {
            self.pools.clear();
            tracing::info!(node = self.id, http = self.http, "node is about to stop");
        }
    }

    /// The average round trip; `None` before the first.
    pub fn round_trip(&self) -> Option<Duration> {
        let nanos = self.round_trip.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_a_moving_average() {
        let node = Node::new("c", 1, ("a:1", "a:2"), &Reach::default());
        assert_eq!(node.round_trip(), None);
        node.answered(Duration::from_micros(800));
        assert_eq!(node.round_trip(), Some(Duration::from_micros(800)));
        node.answered(Duration::from_micros(1600));
        assert_eq!(node.round_trip(), Some(Duration::from_micros(900)));
        for _ in 0..100 {
            node.answered(Duration::from_micros(400));
        }
        let settled = node.round_trip().unwrap();
        assert!(settled < Duration::from_micros(410), "{settled:?}");
    }

    #[test]
    fn a_node_that_failed_or_drains_gets_no_requests() {
        let node = Node::new("c", 1, ("a:1", "a:2"), &Reach::default());
        assert!(node.is_available());
        node.failed(&"refused");
        assert!(!node.is_available());
        node.answered(Duration::from_millis(1));
        assert!(node.is_available());
        node.drains(true);
        assert!(node.is_up() && !node.is_available());
        node.drains(false);
        assert!(node.is_available());
    }
}
