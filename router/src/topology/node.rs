//! A node as the router sees it. Its mutable state is atomic: requests read it, and their outcomes
//! change it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_proto::tls::{DialError, Dialer, Stream};
use http::HeaderValue;
use tokio::sync::Notify;

use crate::upstream::{Lanes, Pools, Reach};

/// Divisor for the weight of a new round trip in the moving average.
const AVERAGE_OVER: u64 = 8;

/// A node. It stays the same object while its state changes, so that its connections and the state
/// are kept.
#[derive(Debug)]
pub struct Node {
    /// Number of the node.
    pub id: u64,
    /// Address of its public port, as `host:port`.
    pub http: String,
    /// Address of its rpc port.
    pub rpc: String,
    /// Connections to its public port.
    pub pools: Pools,
    /// Streams of calls to its rpc port.
    pub lanes: Lanes,
    /// Token that identifies requests of a router, if it has no certificate for that.
    pub token: Option<HeaderValue>,
    dialer: Dialer,
    up: AtomicBool,
    draining: AtomicBool,
    /// Average round trip in nanoseconds; 0 if there was none yet.
    round_trip: AtomicU64,
    doubted: Notify,
}

impl Node {
    /// Creates a node of a cluster, which counts as available; `http` and `rpc` are its addresses.
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

    /// Connects to the public port: encrypted, and only to this node, if there are certificates.
    pub async fn connect(&self) -> Result<Stream, DialError> {
        self.dialer.connect_http(&self.http, &self.rpc).await
    }

    /// Returns whether requests should be sent to the node: it is up and not draining.
    pub fn is_available(&self) -> bool {
        self.is_up() && !self.is_draining()
    }

    /// Returns whether the last health check or request got a response.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Returns whether the node is draining.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Records a successful health check and its round trip.
    pub fn answered(&self, round_trip: Duration) {
        let new = u64::try_from(round_trip.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let average = match self.round_trip.load(Ordering::Relaxed) {
            0 => new,
            old => (old - old / AVERAGE_OVER).saturating_add(new / AVERAGE_OVER),
        };
        self.round_trip.store(average.max(1), Ordering::Relaxed);
        if !self.up.swap(true, Ordering::Relaxed) {
            tracing::info!(node = self.id, http = self.http, "node is up again");
        }
    }

    /// Records that the node is unreachable. It gets no more requests until a health check
    /// succeeds.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        if self.up.swap(false, Ordering::Relaxed) {
            tracing::warn!(node = self.id, http = self.http, %error, "node is down");
        }
        self.doubted.notify_one();
    }

    /// Requests a health check after a failed request, which may or may not be the node's fault.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Waits until a health check is requested.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Records whether the node is draining. If so, its idle connections are closed: the outcome of
    /// a request can be unknown if the node closes its connection.
    pub fn drains(&self, is_draining: bool) {
        if self.draining.swap(is_draining, Ordering::Relaxed) == is_draining {
            return;
        }
        if is_draining {
            self.pools.clear();
            tracing::info!(node = self.id, http = self.http, "node is draining");
        }
    }

    /// Average round trip; `None` before the first health check.
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
        let average = node.round_trip().unwrap();
        assert!(average < Duration::from_micros(410), "{average:?}");
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
