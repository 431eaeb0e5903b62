//! A node as the router sees it. Its mutable state is atomic: requests read it, and their outcomes
//! change it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloudkv_common::node_id::NodeId;
use cloudkv_common::transport::tls::{DialError, Dialer, PeerStream};
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::node_streams::{ConnectSettings, NodeStreams};
use super::pool::ConnectionPools;
use super::reason_log::ReasonLog;

/// Divisor for the weight of a new round trip in the moving average.
const AVERAGE_DIVISOR: u64 = 8;

/// A node. It stays the same object while its state changes, so that its connections and the state
/// are kept.
#[derive(Debug)]
pub(crate) struct Node {
    /// Number of the node.
    pub id: NodeId,
    /// Address of its public port, as `host:port`.
    pub http: String,
    /// Address of its rpc port.
    pub rpc: String,
    /// Name in logs: address of its rpc port, and its region.
    name: String,
    /// Connections to its public port.
    pub pools: ConnectionPools,
    /// Streams of calls to its rpc port.
    pub streams: NodeStreams,
    /// Token that identifies requests of a router, if it has no certificate for that.
    pub token: Option<HeaderValue>,
    dialer: Dialer,
    is_up: AtomicBool,
    /// Logged reason for which it is down.
    down_reason: Mutex<ReasonLog>,
    is_draining: AtomicBool,
    /// Average round trip in nanoseconds; 0 if there was none yet.
    round_trip: AtomicU64,
    check_requested: Notify,
}

impl Node {
    /// Creates a node of a cluster, which counts as available; `http` and `rpc` are its addresses.
    pub(crate) fn new(
        cluster_id: &str,
        id: NodeId,
        (http, rpc): (&str, &str),
        reach: &ConnectSettings,
    ) -> Self {
        Self {
            id,
            http: http.to_owned(),
            rpc: rpc.to_owned(),
            name: rpc.to_owned(),
            pools: ConnectionPools::new(reach.workers),
            streams: NodeStreams::new(cluster_id, id, rpc, reach),
            token: match reach.dialer.tls() {
                Some(_) => None,
                None => HeaderValue::from_str(cluster_id).ok(),
            },
            dialer: reach.dialer.clone(),
            is_up: AtomicBool::new(true),
            down_reason: Mutex::default(),
            is_draining: AtomicBool::new(false),
            round_trip: AtomicU64::new(0),
            check_requested: Notify::new(),
        }
    }

    /// Sets the region that logs name.
    pub(crate) fn in_region(mut self, region: &str) -> Self {
        self.name = format!("{} ({region})", self.rpc);
        self
    }

    /// Connects to the public port: encrypted, and only to this node, if there are certificates.
    pub(crate) async fn connect(&self) -> Result<PeerStream, DialError> {
        self.dialer.connect_http(&self.http, &self.rpc).await
    }

    /// Returns whether requests should be sent to the node: it is up and not draining.
    pub(crate) fn is_available(&self) -> bool {
        self.is_up() && !self.is_draining()
    }

    /// Returns whether the last health check or request got a response.
    pub(crate) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Returns whether the node is draining.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Records a successful health check and its round trip.
    pub(crate) fn record_success(&self, round_trip: Duration) {
        let new = u64::try_from(round_trip.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let average = match self.round_trip.load(Ordering::Relaxed) {
            0 => new,
            old => (old - old / AVERAGE_DIVISOR).saturating_add(new / AVERAGE_DIVISOR),
        };
        self.round_trip.store(average.max(1), Ordering::Relaxed);
        if !self.is_up.swap(true, Ordering::Relaxed) {
            tracing::info!(node = self.name, http = self.http, "node is up again");
        }
    }

    /// Records that a request didn't reach the node. It gets no more requests until a health check
    /// succeeds.
    pub(crate) fn record_failure(&self, error: &dyn std::fmt::Display) {
        self.mark_down(&error.to_string());
        self.check_requested.notify_one();
    }

    /// Records that a health check failed. If the node was down before, for another reason, that is
    /// logged.
    pub(crate) fn record_failed_check(&self, error: &dyn std::fmt::Display) {
        let error = error.to_string();
        let is_new = self.mark_down(&error);
        if !is_new && self.down_reason.lock().take_change(&error, Instant::now()) {
            tracing::warn!(
                node = self.name,
                http = self.http,
                error,
                "node is still down, the reason has changed"
            );
        }
    }

    /// Marks the node as down. Returns false if it was before.
    fn mark_down(&self, error: &str) -> bool {
        // Locked before the state changes: a failed check must not take an old reason for the
        // logged one.
        let mut down_reason = self.down_reason.lock();
        let is_new = self.is_up.swap(false, Ordering::Relaxed);
        if is_new {
            tracing::warn!(node = self.name, http = self.http, error, "node is down");
            down_reason.record(error);
        }
        is_new
    }

    /// Requests a health check after a failed request, which may or may not be the node's fault.
    pub(crate) fn request_check(&self) {
        self.check_requested.notify_one();
    }

    /// Waits until a health check is requested.
    pub(crate) async fn check_requested(&self) {
        self.check_requested.notified().await;
    }

    /// Records whether the node is draining. If so, its idle connections are closed: the outcome of
    /// a request can be unknown if the node closes its connection.
    pub(crate) fn set_draining(&self, is_draining: bool) {
        if self.is_draining.swap(is_draining, Ordering::Relaxed) == is_draining {
            return;
        }
        if is_draining {
            self.pools.clear();
            tracing::info!(node = self.name, http = self.http, "node is draining");
        }
    }

    /// Average round trip; `None` before the first health check.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let nanos = self.round_trip.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_a_moving_average() {
        let node = Node::new(
            "c",
            NodeId::from(1),
            ("a:1", "a:2"),
            &ConnectSettings::default(),
        );
        assert_eq!(node.round_trip(), None);
        node.record_success(Duration::from_micros(800));
        assert_eq!(node.round_trip(), Some(Duration::from_micros(800)));
        node.record_success(Duration::from_micros(1600));
        assert_eq!(node.round_trip(), Some(Duration::from_micros(900)));
        for _ in 0..100 {
            node.record_success(Duration::from_micros(400));
        }
        let average = node.round_trip().unwrap();
        assert!(average < Duration::from_micros(410), "{average:?}");
    }

    #[test]
    fn a_node_that_failed_or_drains_gets_no_requests() {
        let node = Node::new(
            "c",
            NodeId::from(1),
            ("a:1", "a:2"),
            &ConnectSettings::default(),
        );
        let node = node.in_region("eu");
        assert_eq!(node.name, "a:2 (eu)");
        assert!(node.is_available());
        node.record_failure(&"refused");
        assert!(!node.is_available());
        node.record_success(Duration::from_millis(1));
        assert!(node.is_available());
        node.record_failed_check(&"no response");
        assert!(!node.is_available());
        node.record_success(Duration::from_millis(1));
        assert!(node.is_available());
        node.set_draining(true);
        assert!(node.is_up() && !node.is_available());
        node.set_draining(false);
        assert!(node.is_available());
    }
}
