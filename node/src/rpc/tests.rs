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
use tonic::Status;

use super::{
    Answering, CallError, Caller, Dialer, Frames, Handler, Lane, Leaving, LinkSettings, Peers,
    PeersSettings, Runtimes, SnapshotAcks, Tls, Walk, serve,
};
use crate::raft::NodeId;

pub(super) const ME: NodeId = 1;
pub(super) const OTHER: NodeId = 2;
pub(super) const LATE: &str = "late";
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Handler that answers barriers with a counter, pings never, and positions after a yield to the
/// runtime: those of the last index when the gate opens. Users get their body back, that of
/// [`DELAYED_BODY`] when the gate opens.
#[derive(Default)]
struct Counter(AtomicU64, Arc<Notify>);

impl Handler for Counter {
    fn answer(
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
        _: Caller,
        _: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>> {
        std::future::ready(Err(Status::unavailable("not here"))).boxed()
    }

    fn serve(&self, request: pb::UserRequest, _: u64) -> BoxFuture<'static, pb::UserReply> {
        let (status, body) = (200, request.body);
        let gate = self.1.clone();
        async move {
            if body == LATE {
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

    fn walk(&self, _: pb::WalkRequest) -> Result<Walk, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    fn install(
        &self,
        _: Frames,
        _: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        std::future::ready(Err(Status::unavailable("not here"))).boxed()
    }
}

pub(super) struct Server {
    pub address: String,
    stop: CancellationToken,
    pub leaving: Leaving,
    pub gate: Arc<Notify>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) async fn server(address: &str, cluster: &str) -> Server {
    server_with(address, cluster, peers(1, 1), None).await
}

pub(super) async fn server_with(
    address: &str,
    cluster: &str,
    peers: Arc<Peers>,
    tls: Option<Arc<Tls>>,
) -> Server {
    let runtimes = Runtimes::all_on(&Handle::current());
    server_on(runtimes, address, cluster, peers, tls).await
}

pub(super) async fn server_on(
    runtimes: Runtimes,
    address: &str,
    cluster: &str,
    peers: Arc<Peers>,
    tls: Option<Arc<Tls>>,
) -> Server {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, drain) = (CancellationToken::new(), Leaving::default());
    let gate = Arc::new(Notify::new());
    let context = Answering {
        identity: pb::IdentifyResponse {
            cluster_id: cluster.to_owned(),
            node_id: OTHER,
            ..Default::default()
        },
        handler: Arc::new(Counter(AtomicU64::default(), gate.clone())),
        runtimes,
        message_bytes: 1 << 20,
        leaving: drain.clone(),
        peers,
        tls,
    };
    tokio::spawn(serve(listener, context, stop.clone()));
    Server {
        address,
        stop,
        leaving: drain,
        gate,
    }
}

pub(super) fn peers(calls: usize, queue_bytes: usize) -> Arc<Peers> {
    peers_of(ME, Dialer::default(), calls, queue_bytes)
}

pub(super) fn peers_of(me: NodeId, dialer: Dialer, calls: usize, queue_bytes: usize) -> Arc<Peers> {
    let runtimes = Runtimes::all_on(&Handle::current());
    peers_on(runtimes, me, dialer, (calls, queue_bytes))
}

pub(super) fn peers_on(
    runtimes: Runtimes,
    me: NodeId,
    dialer: Dialer,
    (calls, queue_bytes): (usize, usize),
) -> Arc<Peers> {
    Peers::new(PeersSettings {
        cluster_id: "a".to_owned(),
        me,
        dialer,
        link: LinkSettings {
            calls,
            queue_bytes,
            message_bytes: 1 << 20,
        },
        runtimes,
    })
}

pub(super) async fn connected(peers: &Peers, up: bool) {
    let mut state = peers.connected(OTHER, Lane::Keys).unwrap();
    let wait = state.wait_for(|connected| *connected == up);
    tokio::time::timeout(SOON, wait).await.unwrap().unwrap();
}

pub(super) fn barrier() -> call::Body {
    call::Body::Barrier(pb::Barrier { group: 0 })
}

fn position(reply: reply::Body) -> u64 {
    match reply {
        reply::Body::Position(position) => position.index,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_arrive_in_order_and_get_their_own_replies() {
    let server = server("127.0.0.1:0", "a").await;
    let peers = peers(10_000, 1 << 20);
    peers.learn(OTHER, &server.address);
    connected(&peers, true).await;
    let calls: Vec<_> = (0..2000)
        .map(|_| peers.start(OTHER, Lane::Keys, barrier(), SOON).unwrap())
        .collect();
    for (expected, call) in calls.into_iter().enumerate() {
        assert_eq!(position(call.wait().await.unwrap()), expected as u64);
    }
    let delayed = (0..500).map(|index| {
        let body = call::Body::AwaitApplied(pb::AwaitApplied { group: 0, index });
        peers.start(OTHER, Lane::Keys, body, SOON).unwrap()
    });
    for (expected, call) in delayed.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(position(call.wait().await.unwrap()), expected as u64);
    }
}

#[tokio::test]
async fn failed_calls_are_unsent_or_lost() {
    let peers = peers(10, 1 << 20);
    assert_eq!(
        peers.call(OTHER, Lane::Keys, barrier(), SOON).await,
        Err(CallError::Unsent)
    );
    let server = server("127.0.0.1:0", "a").await;
    peers.learn(OTHER, &server.address);
    connected(&peers, true).await;
    let ping = call::Body::Ping(pb::Ping::default());
    let short_timeout = Duration::from_millis(100);
    let unanswered = peers
        .call(OTHER, Lane::Keys, ping.clone(), short_timeout)
        .await;
    assert_eq!(unanswered, Err(CallError::Lost));
    let pending = peers.start(OTHER, Lane::Keys, ping, SOON).unwrap();
    // Its reply shows that the call before it was sent.
    peers
        .call(OTHER, Lane::Keys, barrier(), SOON)
        .await
        .unwrap();
    drop(server);
    assert_eq!(pending.wait().await, Err(CallError::Lost));
    connected(&peers, false).await;
    let refused = peers.call(OTHER, Lane::Keys, barrier(), SOON).await;
    assert_eq!(refused, Err(CallError::Unsent));
}

#[tokio::test]
async fn a_draining_node_answers_sent_calls_and_gets_no_more() {
    let server = server("127.0.0.1:0", "a").await;
    let peers = peers(10, 1 << 20);
    peers.learn(OTHER, &server.address);
    connected(&peers, true).await;
    let delayed = call::Body::AwaitApplied(pb::AwaitApplied {
        group: 0,
        index: u64::MAX,
    });
    let pending = peers.start(OTHER, Lane::Keys, delayed, SOON).unwrap();
    // Its reply shows that the call before it was sent.
    let sent = peers.call(OTHER, Lane::Keys, barrier(), SOON).await;
    sent.unwrap();
    let drain = server.leaving.clone();
    let drained = tokio::spawn(async move { drain.leave().await });
    connected(&peers, false).await;
    let refused = peers.call(OTHER, Lane::Keys, barrier(), SOON).await;
    assert_eq!(refused, Err(CallError::Unsent));
    // Raft's stream stays meanwhile.
    let mut raft_state = peers.connected(OTHER, Lane::Raft).unwrap();
    raft_state.wait_for(|up| *up).await.unwrap();
    let raft = peers.call(OTHER, Lane::Raft, barrier(), SOON).await;
    raft.unwrap();
    assert!(!drained.is_finished());
    server.gate.notify_one();
    assert_eq!(position(pending.wait().await.unwrap()), u64::MAX);
    tokio::time::timeout(SOON, drained).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_restarted_node_is_reconnected_also_at_another_address() {
    let first = server("127.0.0.1:0", "a").await;
    let peers = peers(10, 1 << 20);
    peers.learn(OTHER, &first.address);
    connected(&peers, true).await;
    drop(first);
    connected(&peers, false).await;
    let second = server("127.0.0.1:0", "a").await;
    peers.learn(OTHER, &second.address);
    connected(&peers, true).await;
    peers
        .call(OTHER, Lane::Keys, barrier(), SOON)
        .await
        .unwrap();
    peers.forget(OTHER);
    let removed = peers.call(OTHER, Lane::Keys, barrier(), SOON).await;
    assert_eq!(removed, Err(CallError::Unsent));
}

#[tokio::test]
async fn queued_calls_are_bounded() {
    let server = server("127.0.0.1:0", "a").await;
    let peers = peers(4, 1000);
    peers.learn(OTHER, &server.address);
    connected(&peers, true).await;
    let ping = || call::Body::Ping(pb::Ping::default());
    // Nothing is sent before this task yields to the runtime.
    let queued: Vec<_> = (0..100)
        .map(|_| peers.start(OTHER, Lane::Keys, ping(), Duration::from_secs(1)))
        .collect();
    let busy = queued
        .iter()
        .filter(|call| matches!(call, Err(CallError::Busy)));
    assert!(busy.count() >= 90);
    let large = call::Body::Room(pb::RoomRequest {
        bucket: vec![0; 2000].into(),
    });
    let refused = peers.start(OTHER, Lane::Keys, large, SOON);
    assert!(matches!(refused, Err(CallError::Busy)));
}

#[tokio::test]
async fn a_node_of_another_cluster_and_another_node_are_refused() {
    let foreign = server("127.0.0.1:0", "b").await;
    let peers = peers(10, 1000);
    peers.learn(OTHER, &foreign.address);
    let own = server("127.0.0.1:0", "a").await;
    // The node at this address isn't node 3.
    peers.learn(3, &own.address);
    let timeout = Duration::from_millis(300);
    for node in [OTHER, 3] {
        let mut state = peers.connected(node, Lane::Raft).unwrap();
        let up = tokio::time::timeout(timeout, state.wait_for(|up| *up)).await;
        assert!(up.is_err(), "node {node} was greeted");
    }
}
