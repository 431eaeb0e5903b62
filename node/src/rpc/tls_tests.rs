//! Who may do what on the port for nodes, by the certificate shown, over real sockets.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::node_client::NodeClient;
use cloudkv_proto::v1::{self as pb, call};
use futures_util::stream;
use tempfile::TempDir;
use tonic::{Code, Request, Status};

use super::tests::{ME, OTHER, SOON, Server, barrier, connected, peers_of, server_with};
use super::users_tests::{answered, greeted, greeted_with, greeting, router, user};
use super::{Dialer, Greeting, Holder, Lane, Peers, Tls, TlsFiles, identify, join};
use crate::certs::make;
use crate::config::{CertsArgs, CertsOrder, CertsTerm};

/// Where the nodes are: each has a host of its own.
const MY_HOST: &str = "127.0.0.1";
const OTHER_HOST: &str = "127.0.0.2";

/// A CA that makes certificates in a directory.
struct Ca(TempDir);

impl Ca {
    fn new() -> Self {
        let ca = Self(tempfile::tempdir().unwrap());
        ca.order(CertsOrder::Init { days: 2 });
        ca
    }

    fn order(&self, order: CertsOrder) {
        let dir = self.0.path().to_owned();
        make(&CertsArgs { dir, order }).unwrap();
    }

    fn files(&self, name: &str) -> TlsFiles {
        let path = |file: &str| Path::join(self.0.path(), file);
        TlsFiles {
            cert: path(&format!("{name}.pem")),
            key: path(&format!("{name}.key")),
            ca: path("ca.pem"),
        }
    }

    fn node(&self, host: &str) -> Arc<Tls> {
        let (hosts, host) = (vec![host.to_owned()], host.to_owned());
        self.order(CertsOrder::Node { hosts, term: TERM });
        Tls::open(self.files(&host), Holder::Node { host }).unwrap()
    }

    fn router(&self) -> Arc<Tls> {
        let name = "router".to_owned();
        self.order(CertsOrder::Router { name, term: TERM });
        Tls::open(self.files("router"), Holder::Router).unwrap()
    }
}

const TERM: CertsTerm = CertsTerm {
    days: 1,
    renew: true,
};

fn dialer(tls: &Arc<Tls>) -> Dialer {
    Dialer::new(HashMap::new(), Some(tls.clone()))
}

/// Node [`OTHER`], which knows that node [`ME`] is at [`MY_HOST`].
async fn other_node(ca: &Ca) -> (Server, Arc<Peers>) {
    let tls = ca.node(OTHER_HOST);
    let peers = peers_of(OTHER, dialer(&tls), 10, 1 << 20);
    peers.learn(ME, &format!("{MY_HOST}:1"));
    let address = format!("{OTHER_HOST}:0");
    let server = server_with(&address, "a", peers.clone(), Some(tls)).await;
    (server, peers)
}

/// Opens a lane as node `from`, with whatever certificate; tells what came back first.
async fn greet(tls: &Arc<Tls>, server: &Server, from: u64) -> Result<(), Status> {
    open_lane(&dialer(tls), server, (from, Lane::Raft)).await
}

async fn open_lane(
    dialer: &Dialer,
    server: &Server,
    (from, lane): (u64, Lane),
) -> Result<(), Status> {
    let channel = dialer.channel(&server.address, |it| it).await?;
    let mut request = Request::new(stream::pending());
    let greeting = Greeting {
        cluster_id: "a".to_owned(),
        from,
        to: OTHER,
    };
    greeting.write(lane, request.metadata_mut())?;
    let replies = NodeClient::new(channel).exchange(request).await?;
    let mut replies = replies.into_inner();
    // Nothing was asked: only an end can come.
    match tokio::time::timeout(Duration::from_millis(100), replies.message()).await {
        Err(_) => Ok(()),
        Ok(ended) => Err(ended.err().unwrap_or_else(|| Status::ok("ended"))),
    }
}

#[tokio::test]
async fn nodes_call_each_other_with_certificates() {
    let ca = Ca::new();
    let (server, _) = other_node(&ca).await;
    let peers = peers_of(ME, dialer(&ca.node(MY_HOST)), 10, 1 << 20);
    peers.learn(OTHER, &server.address);
    connected(&peers, true).await;
    let answer = peers.call(OTHER, Lane::Keys, barrier(), SOON).await;
    answer.unwrap();
}

#[tokio::test]
async fn a_node_cannot_act_as_another() {
    let ca = Ca::new();
    let (server, _) = other_node(&ca).await;
    greet(&ca.node(MY_HOST), &server, ME).await.unwrap();
    let refused = greet(&ca.node("127.0.0.3"), &server, ME).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains(MY_HOST), "{refused}");
    // Nor can it stand for another when it is dialled.
    let impostor = ca.node("127.0.0.3");
    let at = format!("{MY_HOST}:0");
    let peers = peers_of(OTHER, Dialer::default(), 1, 1);
    let impostor = server_with(&at, "a", peers, Some(impostor)).await;
    let refused = identify(&dialer(&ca.node(OTHER_HOST)), &impostor.address, 0).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn who_claims_a_number_that_is_not_known_is_answered_nothing() {
    const UNKNOWN: u64 = 77;
    let ca = Ca::new();
    let (server, peers) = other_node(&ca).await;
    // A node of nobody's, and one of a member that isn't this one.
    for host in ["127.0.0.3", MY_HOST] {
        let stranger = dialer(&ca.node(host));
        for lane in [Lane::Raft, Lane::Keys, Lane::Geo] {
            let refused = open_lane(&stranger, &server, (UNKNOWN, lane)).await;
            assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        }
        assert!(peers.take_stranger(), "others are asked who that is");
        let channel = stranger.channel(&server.address, |it| it).await.unwrap();
        let mut snapshot = Request::new(stream::empty());
        let greeting = Greeting {
            cluster_id: "a".to_owned(),
            from: UNKNOWN,
            to: OTHER,
        };
        greeting.write(Lane::Raft, snapshot.metadata_mut()).unwrap();
        let refused = NodeClient::new(channel).install_snapshot(snapshot).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    }
    assert!(peers.take_stranger() && !peers.take_stranger());
}

#[tokio::test]
async fn a_node_is_answered_from_when_it_is_known_until_it_is_removed() {
    let ca = Ca::new();
    let (server, peers) = other_node(&ca).await;
    peers.forget(ME);
    let caller = peers_of(ME, dialer(&ca.node(MY_HOST)), 10, 1 << 20);
    caller.learn(OTHER, &server.address);
    let called = async {
        while !peers.take_stranger() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, called).await.unwrap();
    peers.learn(ME, &format!("{MY_HOST}:1"));
    connected(&caller, true).await;
    peers.forget(ME);
    connected(&caller, false).await;
    // Nor does it get in by the number of another.
    peers.learn(ME, "127.0.0.3:1");
    let refused = greet(&ca.node(MY_HOST), &server, ME).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn users_requests_are_not_taken_from_nodes_of_nobodys() {
    let ca = Ca::new();
    let (server, peers) = other_node(&ca).await;
    let stranger = dialer(&ca.node("127.0.0.3"));
    let greeting = greeting("a", OTHER);
    let (mut replies, _calls) = greeted_with(&stranger, &server.address, &greeting).await;
    let welcome: pb::UserWelcome = replies.next().await.unwrap().unwrap();
    assert_eq!(welcome.code, Code::PermissionDenied as u32);
    let stranger = router(stranger, &server.address);
    peers.learn(5, "127.0.0.3:1");
    stranger.is_connected(true).await;
    assert_eq!(answered(stranger.call(user("hello")).await), "hello");
}

#[tokio::test]
async fn a_connection_for_raft_brings_nothing_else() {
    let ca = Ca::new();
    let (server, _) = other_node(&ca).await;
    let marked = dialer(&ca.node(MY_HOST)).for_raft();
    let refused = identify(&marked, &server.address, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    open_lane(&marked, &server, (ME, Lane::Raft)).await.unwrap();
    let refused = open_lane(&marked, &server, (ME, Lane::Keys)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_router_may_only_ask_who_a_node_is() {
    let ca = Ca::new();
    let (server, _) = other_node(&ca).await;
    let router = ca.router();
    let answer = identify(&dialer(&router), &server.address, 0)
        .await
        .unwrap();
    assert_eq!(answer.node_id, OTHER);
    let request = pb::JoinRequest {
        node_id: 5,
        rpc: "router:7070".to_owned(),
        ..Default::default()
    };
    let refused = join(&dialer(&router), &server.address, request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for number in [ME, 5] {
        let refused = greet(&router, &server, number).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let channel = dialer(&router)
        .channel(&server.address, |it| it)
        .await
        .unwrap();
    let mut snapshot = Request::new(stream::empty());
    let greeting = Greeting {
        cluster_id: "a".to_owned(),
        from: ME,
        to: OTHER,
    };
    greeting.write(Lane::Raft, snapshot.metadata_mut()).unwrap();
    let refused = NodeClient::new(channel).install_snapshot(snapshot).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn routers_and_nodes_may_bring_users_requests_but_nobody_without_a_certificate() {
    let ca = Ca::new();
    let (server, _) = other_node(&ca).await;
    for tls in [ca.router(), ca.node(MY_HOST)] {
        let router = router(dialer(&tls), &server.address);
        router.is_connected(true).await;
        assert_eq!(answered(router.call(user("hello")).await), "hello");
    }
    let (mut replies, _calls) = greeted(&server.address, "a", OTHER).await;
    let welcome = replies.next::<pb::UserWelcome>().await;
    assert!(!matches!(welcome, Ok(Some(_))), "{welcome:?}");
}

#[tokio::test]
async fn a_node_joins_at_its_own_address_only() {
    let ca = Ca::new();
    let (server, _) = other_node(&ca).await;
    let me = dialer(&ca.node(MY_HOST));
    let request = |rpc: &str| pb::JoinRequest {
        node_id: 5,
        rpc: rpc.to_owned(),
        ..Default::default()
    };
    let refused = join(&me, &server.address, request("127.0.0.3:7070")).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // What the harness' node says to those who may ask.
    let asked = join(&me, &server.address, request("127.0.0.1:7070")).await;
    assert_eq!(asked.unwrap_err().message(), "not here");
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_stream_and_nothing_else() {
    let ca = Ca::new();
    let (server, _) = other_node(&ca).await;
    let tls = ca.node(MY_HOST);
    let peers = peers_of(ME, dialer(&tls), 10, 1 << 20);
    peers.learn(OTHER, &server.address);
    connected(&peers, true).await;
    let channel = dialer(&tls)
        .channel(&server.address, |it| it)
        .await
        .unwrap();
    let room = call::Body::Room(pb::RoomRequest {
        // The harness' node takes messages of 1 MiB.
        bucket: vec![0; 2 << 20].into(),
    });
    let frame = pb::CallFrame {
        calls: vec![pb::Call {
            id: 1,
            timeout_ms: 1000,
            body: Some(room),
        }],
    };
    let mut request = Request::new(stream::iter([frame]));
    let greeting = Greeting {
        cluster_id: "a".to_owned(),
        from: ME,
        to: OTHER,
    };
    greeting.write(Lane::Keys, request.metadata_mut()).unwrap();
    let replies = NodeClient::new(channel).exchange(request).await.unwrap();
    let end = tokio::time::timeout(SOON, replies.into_inner().message()).await;
    assert!(!matches!(end.expect("an end"), Ok(Some(_))));
    peers
        .call(OTHER, Lane::Keys, barrier(), SOON)
        .await
        .unwrap();
}
