//! Calls between two nodes over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    BulkCopyStream, CallError, Dialer, PeerIdentity, Peers, PeersSettings, RpcClientSettings,
    RpcHandler, RpcRuntimes, RpcServerContext, SnapshotAcks, SnapshotFrames, StreamDrain,
    StreamKind, Tls, serve,
};
use crate::types::NodeId;

pub(super) const ME: NodeId = NodeId::new(1);
pub(super) const OTHER: NodeId = NodeId::new(2);
pub(super) const DELAYED_BODY: &str = "late";
pub(super) const STATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handler that answers barriers with a counter, pings never, and positions after a yield to the
/// runtime: those of the last index when the gate opens. Users get their body back, that of
/// [`DELAYED_BODY`] when the gate opens.
#[derive(Default)]
struct CountingHandler(AtomicU64, Arc<Notify>);

impl RpcHandler for CountingHandler {
    fn handle_call(
        &self,
        from: NodeId,
        body: call::Body,
        _: Duration,
    ) -> BoxFuture<'static, reply::Body> {
        assert_eq!(from, ME);
        match body {
            call::Body::Barrier(_) => {
                let index = self.0.fetch_add(1, Ordering::Relaxed);
                std::future::ready(reply::Body::Position(pb::Position { index })).boxed()
            }
            call::Body::AwaitApplied(wait) if wait.index == u64::MAX => {
                let gate = self.1.clone();
                async move {
                    gate.notified().await;
                    reply::Body::Position(pb::Position { index: wait.index })
                }
                .boxed()
            }
            call::Body::AwaitApplied(wait) => async move {
                tokio::task::yield_now().await;
                reply::Body::Position(pb::Position { index: wait.index })
            }
            .boxed(),
            _ => std::future::pending().boxed(),
        }
    }

    fn join(
        &self,
        _: PeerIdentity,
        _: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>> {
        std::future::ready(Err(Status::unavailable("not here"))).boxed()
    }

    fn handle_user_request(
        &self,
        request: pb::UserRequest,
        _: u64,
    ) -> BoxFuture<'static, pb::UserReply> {
        let (status, body) = (200, request.body);
        let gate = self.1.clone();
        async move {
            if body == DELAYED_BODY {
                gate.notified().await;
            }
            pb::UserReply {
                status,
                body,
                ..Default::default()
            }
        }
        .boxed()
    }

    fn topology(&self) -> pb::Topology {
        pb::Topology::default()
    }

    fn bulk_copy(&self, _: pb::BulkCopyRequest) -> Result<BulkCopyStream, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    fn install_snapshot(
        &self,
        _: SnapshotFrames,
        _: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        std::future::ready(Err(Status::unavailable("not here"))).boxed()
    }
}

pub(super) struct TestServer {
    pub address: String,
    stop: CancellationToken,
    pub drain: StreamDrain,
    pub gate: Arc<Notify>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) async fn start_server(address: &str, cluster: &str) -> TestServer {
    start_server_with(address, cluster, create_peers(1, 1), None).await
}

pub(super) async fn start_server_with(
    address: &str,
    cluster: &str,
    peers: Arc<Peers>,
    tls: Option<Arc<Tls>>,
) -> TestServer {
    let runtimes = RpcRuntimes::all_on(&Handle::current());
    start_server_on(runtimes, address, cluster, peers, tls).await
}

pub(super) async fn start_server_on(
    runtimes: RpcRuntimes,
    address: &str,
    cluster: &str,
    peers: Arc<Peers>,
    tls: Option<Arc<Tls>>,
) -> TestServer {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, drain) = (CancellationToken::new(), StreamDrain::default());
    let gate = Arc::new(Notify::new());
    let context = RpcServerContext {
        identity: pb::IdentifyResponse {
            cluster_id: cluster.to_owned(),
            node_id: OTHER.into(),
            ..Default::default()
        },
        handler: Arc::new(CountingHandler(AtomicU64::default(), gate.clone())),
        runtimes,
        message_bytes: 1 << 20,
        drain: drain.clone(),
        peers,
        tls,
    };
    tokio::spawn(serve(listener, context, stop.clone()));
    TestServer {
        address,
        stop,
        drain,
        gate,
    }
}

pub(super) fn create_peers(calls: usize, queue_bytes: usize) -> Arc<Peers> {
    create_peers_of(ME, Dialer::default(), calls, queue_bytes)
}

pub(super) fn create_peers_of(
    me: NodeId,
    dialer: Dialer,
    calls: usize,
    queue_bytes: usize,
) -> Arc<Peers> {
    let runtimes = RpcRuntimes::all_on(&Handle::current());
    create_peers_on(runtimes, me, dialer, (calls, queue_bytes))
}

pub(super) fn create_peers_on(
    runtimes: RpcRuntimes,
    me: NodeId,
    dialer: Dialer,
    (calls, queue_bytes): (usize, usize),
) -> Arc<Peers> {
    Peers::new(PeersSettings {
        cluster_id: "a".to_owned(),
        me,
        dialer,
        client: RpcClientSettings {
            max_calls: calls,
            max_queue_bytes: queue_bytes,
            max_message_bytes: 1 << 20,
        },
        runtimes,
    })
}

pub(super) async fn wait_connected(peers: &Peers, up: bool) {
    let mut state = peers
        .watch_connection(OTHER, StreamKind::Forwarded)
        .unwrap();
    let wait = state.wait_for(|connected| *connected == up);
    tokio::time::timeout(STATE_TIMEOUT, wait)
        .await
        .unwrap()
        .unwrap();
}

pub(super) fn barrier_call() -> call::Body {
    call::Body::Barrier(pb::Barrier { group: 0 })
}

fn index_of(reply: reply::Body) -> u64 {
    match reply {
        reply::Body::Position(position) => position.index,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_arrive_in_order_and_get_their_own_replies() {
    let server = start_server("127.0.0.1:0", "a").await;
    let peers = create_peers(10_000, 1 << 20);
    peers.set_address(OTHER, &server.address);
    wait_connected(&peers, true).await;
    let calls: Vec<_> = (0..2000)
        .map(|_| {
            peers
                .start_call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
                .unwrap()
        })
        .collect();
    for (expected, call) in calls.into_iter().enumerate() {
        assert_eq!(index_of(call.wait().await.unwrap()), expected as u64);
    }
    let delayed = (0..500).map(|index| {
        let body = call::Body::AwaitApplied(pb::AwaitApplied { group: 0, index });
        peers
            .start_call(OTHER, StreamKind::Forwarded, body, STATE_TIMEOUT)
            .unwrap()
    });
    for (expected, call) in delayed.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(index_of(call.wait().await.unwrap()), expected as u64);
    }
}

#[tokio::test]
async fn failed_calls_are_unsent_or_lost() {
    let peers = create_peers(10, 1 << 20);
    assert_eq!(
        peers
            .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
            .await,
        Err(CallError::Unsent)
    );
    let server = start_server("127.0.0.1:0", "a").await;
    peers.set_address(OTHER, &server.address);
    wait_connected(&peers, true).await;
    let ping = call::Body::Ping(pb::Ping::default());
    let short_timeout = Duration::from_millis(100);
    let unanswered = peers
        .call(OTHER, StreamKind::Forwarded, ping.clone(), short_timeout)
        .await;
    assert_eq!(unanswered, Err(CallError::Lost));
    let pending = peers
        .start_call(OTHER, StreamKind::Forwarded, ping, STATE_TIMEOUT)
        .unwrap();
    // Its reply shows that the call before it was sent.
    peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await
        .unwrap();
    drop(server);
    assert_eq!(pending.wait().await, Err(CallError::Lost));
    wait_connected(&peers, false).await;
    let refused = peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await;
    assert_eq!(refused, Err(CallError::Unsent));
}

#[tokio::test]
async fn a_draining_node_answers_sent_calls_and_gets_no_more() {
    let server = start_server("127.0.0.1:0", "a").await;
    let peers = create_peers(10, 1 << 20);
    peers.set_address(OTHER, &server.address);
    wait_connected(&peers, true).await;
    let delayed = call::Body::AwaitApplied(pb::AwaitApplied {
        group: 0,
        index: u64::MAX,
    });
    let pending = peers
        .start_call(OTHER, StreamKind::Forwarded, delayed, STATE_TIMEOUT)
        .unwrap();
    // Its reply shows that the call before it was sent.
    let sent = peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await;
    sent.unwrap();
    let drain = server.drain.clone();
    let drained = tokio::spawn(async move { drain.drain().await });
    wait_connected(&peers, false).await;
    let refused = peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await;
    assert_eq!(refused, Err(CallError::Unsent));
    // Raft's stream stays meanwhile.
    let mut raft_state = peers.watch_connection(OTHER, StreamKind::Raft).unwrap();
    raft_state.wait_for(|up| *up).await.unwrap();
    let raft = peers
        .call(OTHER, StreamKind::Raft, barrier_call(), STATE_TIMEOUT)
        .await;
    raft.unwrap();
    assert!(!drained.is_finished());
    server.gate.notify_one();
    assert_eq!(index_of(pending.wait().await.unwrap()), u64::MAX);
    tokio::time::timeout(STATE_TIMEOUT, drained)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_restarted_node_is_reconnected_also_at_another_address() {
    let first = start_server("127.0.0.1:0", "a").await;
    let peers = create_peers(10, 1 << 20);
    peers.set_address(OTHER, &first.address);
    wait_connected(&peers, true).await;
    drop(first);
    wait_connected(&peers, false).await;
    let second = start_server("127.0.0.1:0", "a").await;
    peers.set_address(OTHER, &second.address);
    wait_connected(&peers, true).await;
    peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await
        .unwrap();
    peers.remove(OTHER);
    let removed = peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await;
    assert_eq!(removed, Err(CallError::Unsent));
}

#[tokio::test]
async fn queued_calls_are_bounded() {
    let server = start_server("127.0.0.1:0", "a").await;
    let peers = create_peers(4, 1000);
    peers.set_address(OTHER, &server.address);
    wait_connected(&peers, true).await;
    let ping = || call::Body::Ping(pb::Ping::default());
    // Nothing is sent before this task yields to the runtime.
    let queued: Vec<_> = (0..100)
        .map(|_| peers.start_call(OTHER, StreamKind::Forwarded, ping(), Duration::from_secs(1)))
        .collect();
    let busy = queued
        .iter()
        .filter(|call| matches!(call, Err(CallError::Busy)));
    assert!(busy.count() >= 90);
    let large = call::Body::Quota(pb::QuotaRequest {
        bucket: vec![0; 2000].into(),
    });
    let refused = peers.start_call(OTHER, StreamKind::Forwarded, large, STATE_TIMEOUT);
    assert!(matches!(refused, Err(CallError::Busy)));
}

#[tokio::test]
async fn a_node_of_another_cluster_and_another_node_are_refused() {
    let foreign = start_server("127.0.0.1:0", "b").await;
    let peers = create_peers(10, 1000);
    peers.set_address(OTHER, &foreign.address);
    let own = start_server("127.0.0.1:0", "a").await;
    // The node at this address isn't node 3.
    let third = NodeId::from(3);
    peers.set_address(third, &own.address);
    let timeout = Duration::from_millis(300);
    for node in [OTHER, third] {
        let mut state = peers.watch_connection(node, StreamKind::Raft).unwrap();
        let up = tokio::time::timeout(timeout, state.wait_for(|up| *up)).await;
        assert!(up.is_err(), "node {node} was greeted");
    }
}

#[tokio::test]
async fn only_nodes_of_its_region_scan_a_nodes_buckets() {
    let known = create_peers_of(OTHER, Dialer::default(), 1, 1);
    known.set_address(ME, "127.0.0.1:1");
    let server = start_server_with("127.0.0.1:0", "a", known.clone(), None).await;
    let peers = create_peers(1, 1);
    peers.set_address(OTHER, &server.address);
    let scan = || peers.open_scan(OTHER, pb::ScanRequest::default());
    assert_eq!(scan().await.unwrap_err().code(), Code::PermissionDenied);
    known.set_same_region(ME, true);
    let answered = scan().await.unwrap_err();
    assert_eq!(answered.code(), Code::Unimplemented, "by the handler");
}
