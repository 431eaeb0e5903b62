//! Routers forward users' requests, over real sockets.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_common::byte_budget::ByteBudget;
use cloudkv_common::transport::frames::{FrameReader, FrameWriter, split};
use cloudkv_common::transport::headers::TABLE_VERSION;
use cloudkv_common::transport::tls::{AcceptedConnections, Connections, accept};
use cloudkv_common::transport::{RpcClient, StreamProtocol};
use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::Code;

use super::tests::{
    DELAYED_BODY, OTHER, STATE_TIMEOUT, barrier_call, create_peers, start_server, wait_connected,
};
use super::{CallError, Dialer, Greeting, RpcClientSettings, StreamKind};
use crate::types::NodeId;

/// A router's client of the node at an address that may change.
pub(super) struct TestRouter {
    client: RpcClient,
    address: watch::Sender<String>,
}

pub(super) fn start_router(dialer: Dialer, address: &str) -> TestRouter {
    let bounds = RpcClientSettings {
        max_calls: 1000,
        max_queue_bytes: 8 << 20,
        max_message_bytes: 4 << 20,
    };
    let greeting = Greeting {
        cluster_id: "a".to_owned(),
        from: NodeId::default(),
        to: OTHER,
    };
    let (address, changes) = watch::channel(address.to_owned());
    let runtime = Handle::current();
    let budget = ByteBudget::new(bounds.max_queue_bytes);
    let client = RpcClient::start(
        &runtime,
        dialer,
        greeting,
        StreamProtocol::UserFrames,
        changes,
        bounds,
        budget,
    );
    TestRouter { client, address }
}

impl TestRouter {
    pub(super) async fn wait_connected(&self, up: bool) {
        let mut state = self.client.connected();
        let wait = state.wait_for(|connected| *connected == up);
        tokio::time::timeout(STATE_TIMEOUT, wait)
            .await
            .unwrap()
            .unwrap();
    }

    pub(super) async fn call(&self, body: call::Body) -> Result<reply::Body, CallError> {
        self.client.call(body, STATE_TIMEOUT)?.wait().await
    }
}

pub(super) fn user_call(body: impl Into<Bytes>) -> call::Body {
    call::Body::User(pb::UserRequest {
        body: body.into(),
        ..Default::default()
    })
}

pub(super) fn reply_body(reply: Result<reply::Body, CallError>) -> Bytes {
    match reply.unwrap() {
        reply::Body::User(reply) => reply.body,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_of_all_sizes_get_their_own_replies() {
    let server = start_server("127.0.0.1:0", "a").await;
    let router = start_router(Dialer::default(), &server.address);
    router.wait_connected(true).await;
    let body = |size: usize| Bytes::from(vec![u8::try_from(size % 251).unwrap(); size]);
    let sizes = (0..300).chain([20_000, 300_000, 500_000, 1]);
    let calls: Vec<_> = sizes
        .map(|size| {
            (
                size,
                router
                    .client
                    .call(user_call(body(size)), STATE_TIMEOUT)
                    .unwrap(),
            )
        })
        .collect();
    for (size, call) in calls {
        assert_eq!(reply_body(call.wait().await), body(size));
    }
}

#[tokio::test]
async fn users_requests_are_accepted_on_their_own_streams_only() {
    let server = start_server("127.0.0.1:0", "a").await;
    let router = start_router(Dialer::default(), &server.address);
    router.wait_connected(true).await;
    assert_eq!(reply_body(router.call(user_call("hello")).await), "hello");
    for body in [barrier_call(), call::Body::Ping(pb::Ping::default())] {
        let refused = router.call(body).await.unwrap();
        assert!(matches!(refused, reply::Body::Refused(_)), "{refused:?}");
    }
    // Users' requests are refused on other streams.
    let peers = create_peers(10, 1 << 20);
    peers.set_address(OTHER, &server.address);
    wait_connected(&peers, true).await;
    let refused = peers
        .call(
            OTHER,
            StreamKind::Forwarded,
            user_call("hello"),
            STATE_TIMEOUT,
        )
        .await;
    assert!(
        matches!(refused, Ok(reply::Body::Refused(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_draining_node_answers_the_requests_that_routers_sent() {
    let server = start_server("127.0.0.1:0", "a").await;
    let router = start_router(Dialer::default(), &server.address);
    router.wait_connected(true).await;
    let pending = router
        .client
        .call(user_call(DELAYED_BODY), STATE_TIMEOUT)
        .unwrap();
    // Its reply shows that the call before it was sent.
    assert_eq!(reply_body(router.call(user_call("hello")).await), "hello");
    let drain = server.drain.clone();
    let drained = tokio::spawn(async move { drain.drain().await });
    router.wait_connected(false).await;
    let refused = router.call(user_call("more")).await;
    assert_eq!(refused, Err(CallError::Unsent));
    assert!(!drained.is_finished());
    server.gate.notify_one();
    assert_eq!(reply_body(pending.wait().await), DELAYED_BODY);
    tokio::time::timeout(STATE_TIMEOUT, drained)
        .await
        .unwrap()
        .unwrap();
    let refused = read_welcome(&server.address, "a", OTHER).await;
    assert_eq!(
        refused.code,
        Code::Unavailable as u32,
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn routers_of_another_cluster_or_for_another_node_are_refused() {
    let server = start_server("127.0.0.1:0", "a").await;
    let welcome = read_welcome(&server.address, "a", OTHER).await;
    assert_eq!(welcome, accepting_welcome());
    let foreign = read_welcome(&server.address, "b", OTHER).await;
    assert_eq!(foreign.code, Code::PermissionDenied as u32);
    assert!(foreign.message.contains("cluster a"), "{}", foreign.message);
    let misdirected = read_welcome(&server.address, "a", NodeId::from(3)).await;
    assert_eq!(misdirected.code, Code::FailedPrecondition as u32);
}

/// Returns the welcome of the node at `address` to a router of `cluster` that greets node `to`.
async fn read_welcome(address: &str, cluster: &str, to: NodeId) -> pb::UserWelcome {
    let (mut replies, _calls) = send_greeting(address, cluster, to).await;
    replies.next().await.unwrap().unwrap()
}

/// Opens a connection without a certificate to the node at `address`, and greets node `to` as a
/// router of `cluster`.
pub(super) async fn send_greeting(
    address: &str,
    cluster: &str,
    to: NodeId,
) -> (FrameReader, FrameWriter) {
    let greeting = user_greeting(cluster, to);
    send_greeting_with(&Dialer::default(), address, &greeting).await
}

pub(super) fn user_greeting(cluster: &str, to: NodeId) -> pb::UserGreeting {
    pb::UserGreeting {
        cluster_id: cluster.to_owned(),
        to: to.into(),
        headers: TABLE_VERSION,
    }
}

pub(super) async fn send_greeting_with(
    dialer: &Dialer,
    address: &str,
    greeting: &pb::UserGreeting,
) -> (FrameReader, FrameWriter) {
    let dialer = dialer.for_users();
    let (replies, mut calls) = split(dialer.connect(address).await.unwrap());
    calls.send(greeting).await.unwrap();
    (replies, calls)
}

fn accepting_welcome() -> pb::UserWelcome {
    pb::UserWelcome {
        headers: TABLE_VERSION,
        ..Default::default()
    }
}

/// With different versions of the header encoding one would misread the other. A router or node
/// that is older than the version field sends 0.
#[tokio::test]
async fn routers_and_nodes_with_other_header_versions_refuse_each_other() {
    let server = start_server("127.0.0.1:0", "a").await;
    for headers in [0, TABLE_VERSION + 1] {
        let greeting = pb::UserGreeting {
            cluster_id: "a".to_owned(),
            to: OTHER.into(),
            headers,
        };
        let (mut replies, _calls) =
            send_greeting_with(&Dialer::default(), &server.address, &greeting).await;
        let welcome = replies.next::<pb::UserWelcome>().await.unwrap().unwrap();
        assert_eq!(welcome.code, Code::Unimplemented as u32);
    }

    for headers in [0, TABLE_VERSION + 1] {
        let (address, mut accepted) = start_fake_node().await;
        let router = start_router(Dialer::default(), &address);
        let other_version = pb::UserWelcome {
            headers,
            ..Default::default()
        };
        let (mut calls, _replies) =
            accept_router_with(&mut accepted.users[0], &other_version).await;
        assert_eq!(calls.next::<pb::CallFrame>().await.unwrap(), None);
        assert_eq!(
            router.call(user_call("hello")).await,
            Err(CallError::Unsent)
        );
        // The node was upgraded.
        let upgraded =
            tokio::time::timeout(3 * STATE_TIMEOUT, accept_router(&mut accepted.users[0]));
        let _halves = upgraded.await.unwrap();
        router.wait_connected(true).await;
    }
}

#[tokio::test]
async fn a_connected_client_follows_each_change_of_its_nodes_address() {
    let server = start_server("127.0.0.1:0", "a").await;
    let router = start_router(Dialer::default(), &server.address);
    for _ in 0..3 {
        router.wait_connected(true).await;
        assert_eq!(reply_body(router.call(user_call("hello")).await), "hello");
        let (other_address, mut accepted) = start_fake_node().await;
        router.address.send_replace(other_address);
        let (mut calls, _replies) = accept_router(&mut accepted.users[0]).await;
        router.wait_connected(true).await;
        let pending = router
            .client
            .call(user_call("there"), STATE_TIMEOUT)
            .unwrap();
        let frame = calls.next::<pb::CallFrame>().await.unwrap().unwrap();
        assert_eq!(frame.calls.len(), 1);
        router.address.send_replace(server.address.clone());
        assert_eq!(pending.wait().await, Err(CallError::Lost));
    }
}

#[tokio::test]
async fn a_router_that_greets_with_garbage_is_disconnected() {
    let server = start_server("127.0.0.1:0", "a").await;
    let garbage = pb::UserWelcome {
        code: u32::MAX,
        message: "x".repeat(100),
        headers: TABLE_VERSION,
    };
    let stream = Dialer::default().for_users();
    let stream = stream.connect(&server.address).await.unwrap();
    let (mut replies, mut calls) = split(stream);
    calls.send(&garbage).await.unwrap();
    // Shorter than the timeout of a greeting.
    let timeout = Duration::from_secs(4);
    let ended = tokio::time::timeout(timeout, replies.next::<pb::UserWelcome>());
    assert!(!matches!(ended.await.unwrap(), Ok(Some(welcome)) if welcome.code == 0));
}

/// Accepts the next connection of a router at a fake node, and welcomes the router.
async fn accept_router(accepted: &mut Connections) -> (FrameReader, FrameWriter) {
    accept_router_with(accepted, &accepting_welcome()).await
}

async fn accept_router_with(
    accepted: &mut Connections,
    welcome: &pb::UserWelcome,
) -> (FrameReader, FrameWriter) {
    let stream = accepted.next().await.unwrap().unwrap();
    let (mut calls, mut replies) = split(stream);
    calls.next::<pb::UserGreeting>().await.unwrap().unwrap();
    replies.send(welcome).await.unwrap();
    (calls, replies)
}

/// Starts a fake node; returns its address and the connections that routers make.
async fn start_fake_node() -> (String, AcceptedConnections) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let runtime = Handle::current();
    (address, accept(listener, None, runtime.clone(), &[runtime]))
}

#[tokio::test]
async fn a_silent_node_is_disconnected() {
    let (address, mut accepted) = start_fake_node().await;
    let router = start_router(Dialer::default(), &address);
    let (mut calls, _replies) = accept_router(&mut accepted.users[0]).await;
    router.wait_connected(true).await;
    let pending = router
        .client
        .call(user_call("hello"), STATE_TIMEOUT)
        .unwrap();
    let frame = calls.next::<pb::CallFrame>().await.unwrap().unwrap();
    assert_eq!(frame.calls.len(), 1);
    // The router asks for a sign of life before it disconnects.
    let ping = tokio::time::timeout(Duration::from_secs(5), calls.next::<pb::CallFrame>());
    assert_eq!(ping.await.unwrap().unwrap().unwrap().calls, []);
    assert_eq!(pending.wait().await, Err(CallError::Lost));
    router.wait_connected(false).await;
}

#[tokio::test]
async fn a_node_that_is_silent_after_starting_to_drain_is_disconnected() {
    let (address, mut accepted) = start_fake_node().await;
    let router = start_router(Dialer::default(), &address);
    let (_calls, mut replies) = accept_router(&mut accepted.users[0]).await;
    router.wait_connected(true).await;
    let leaving = pb::ReplyFrame {
        draining: true,
        ..Default::default()
    };
    replies.send(&leaving).await.unwrap();
    router.wait_connected(false).await;
    let reconnected =
        tokio::time::timeout(3 * STATE_TIMEOUT, accept_router(&mut accepted.users[0]));
    let _halves = reconnected.await.unwrap();
    router.wait_connected(true).await;
}

#[tokio::test]
async fn idle_streams_and_streams_with_only_replies_stay_open() {
    let server = start_server("127.0.0.1:0", "a").await;
    let [idle, slow] = [(); 2].map(|()| start_router(Dialer::default(), &server.address));
    let mut states = [&idle, &slow].map(|router| router.client.connected());
    for (router, state) in [&idle, &slow].into_iter().zip(&mut states) {
        router.wait_connected(true).await;
        state.mark_unchanged();
    }
    // Longer than either end waits for a sign of life.
    let (reply_count, interval) = (30, Duration::from_millis(300));
    let pending: Vec<_> = (0..reply_count)
        .map(|_| {
            slow.client
                .call(user_call(DELAYED_BODY), 3 * STATE_TIMEOUT)
                .unwrap()
        })
        .collect();
    let reply = async {
        for _ in 0..reply_count {
            tokio::time::sleep(interval).await;
            server.gate.notify_one();
        }
    };
    let receive = async {
        for call in pending {
            assert_eq!(reply_body(call.wait().await), DELAYED_BODY);
        }
    };
    tokio::join!(reply, receive);
    for (router, state) in [&idle, &slow].into_iter().zip(states) {
        assert!(
            !state.has_changed().unwrap(),
            "it was disconnected in between"
        );
        assert_eq!(reply_body(router.call(user_call("hello")).await), "hello");
    }
}

#[tokio::test]
async fn a_silent_router_is_disconnected() {
    let server = start_server("127.0.0.1:0", "a").await;
    let (mut replies, _calls) = send_greeting(&server.address, "a", OTHER).await;
    let welcome = replies.next::<pb::UserWelcome>().await.unwrap();
    assert_eq!(welcome, Some(accepting_welcome()));
    let ended = tokio::time::timeout(3 * STATE_TIMEOUT, replies.next::<pb::ReplyFrame>());
    assert_eq!(ended.await.unwrap().ok().flatten(), None);
}
