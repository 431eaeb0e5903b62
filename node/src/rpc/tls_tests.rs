//! Authorization on the rpc port by certificates, over real sockets.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::node_client::NodeClient;
use cloudkv_proto::v1::{self as pb, call};
use futures_util::stream;
use tempfile::TempDir;
use tonic::{Code, Request, Status};

use super::router_streams_tests::{
    reply_body, send_greeting, send_greeting_with, start_router, user_call, user_greeting,
};
use super::tests::{
    ME, OTHER, STATE_TIMEOUT, TestServer, barrier_call, create_peers_of, start_server_with,
    wait_connected,
};
use super::{Dialer, Greeting, Peers, StreamKind, Tls, TlsFiles, TlsRole, identify, join};
use crate::certs::run;
use crate::config::{CertificateValidity, CertsArgs, CertsCommand};
use crate::types::NodeId;

/// Hosts of the nodes: each has its own.
const OWN_HOST: &str = "127.0.0.1";
const OTHER_HOST: &str = "127.0.0.2";

/// A CA that issues certificates in a directory.
struct TestCa(TempDir);

impl TestCa {
    fn new() -> Self {
        let ca = Self(tempfile::tempdir().unwrap());
        ca.run(CertsCommand::Init { days: 2 });
        ca
    }

    fn run(&self, order: CertsCommand) {
        let dir = self.0.path().to_owned();
        run(&CertsArgs {
            dir,
            command: order,
        })
        .unwrap();
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
        self.run(CertsCommand::Node { hosts, term: TERM });
        Tls::open(self.files(&host), TlsRole::Node { host }).unwrap()
    }

    fn router(&self) -> Arc<Tls> {
        let name = "router".to_owned();
        self.run(CertsCommand::Router { name, term: TERM });
        Tls::open(self.files("router"), TlsRole::Router).unwrap()
    }
}

const TERM: CertificateValidity = CertificateValidity {
    days: 1,
    renew: true,
};

fn dialer(tls: &Arc<Tls>) -> Dialer {
    Dialer::new(HashMap::new(), Some(tls.clone()))
}

/// Starts node [`OTHER`], which knows that node [`ME`] is at [`OWN_HOST`].
async fn start_other_node(ca: &TestCa) -> (TestServer, Arc<Peers>) {
    let tls = ca.node(OTHER_HOST);
    let peers = create_peers_of(OTHER, dialer(&tls), 10, 1 << 20);
    peers.set_address(ME, &format!("{OWN_HOST}:1"));
    let address = format!("{OTHER_HOST}:0");
    let server = start_server_with(&address, "a", peers.clone(), Some(tls)).await;
    (server, peers)
}

/// Opens a stream as node `from` with any certificate; fails if the server closes it.
async fn open_raft_stream(tls: &Arc<Tls>, server: &TestServer, from: NodeId) -> Result<(), Status> {
    open_stream(&dialer(tls), server, (from, StreamKind::Raft)).await
}

async fn open_stream(
    dialer: &Dialer,
    server: &TestServer,
    (from, kind): (NodeId, StreamKind),
) -> Result<(), Status> {
    let channel = dialer.channel(&server.address, |endpoint| endpoint).await?;
    let mut request = Request::new(stream::pending());
    let greeting = Greeting {
        cluster_id: "a".to_owned(),
        from,
        to: OTHER,
    };
    greeting.write_metadata(kind, request.metadata_mut())?;
    let replies = NodeClient::new(channel).exchange(request).await?;
    let mut replies = replies.into_inner();
    // No call was sent: only the end of the stream can come.
    match tokio::time::timeout(Duration::from_millis(100), replies.message()).await {
        Err(_) => Ok(()),
        Ok(ended) => Err(ended.err().unwrap_or_else(|| Status::ok("ended"))),
    }
}

#[tokio::test]
async fn nodes_call_each_other_with_certificates() {
    let ca = TestCa::new();
    let (server, _) = start_other_node(&ca).await;
    let peers = create_peers_of(ME, dialer(&ca.node(OWN_HOST)), 10, 1 << 20);
    peers.set_address(OTHER, &server.address);
    wait_connected(&peers, true).await;
    let reply = peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await;
    reply.unwrap();
}

#[tokio::test]
async fn a_node_cannot_act_as_another() {
    let ca = TestCa::new();
    let (server, _) = start_other_node(&ca).await;
    open_raft_stream(&ca.node(OWN_HOST), &server, ME)
        .await
        .unwrap();
    let refused = open_raft_stream(&ca.node("127.0.0.3"), &server, ME)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains(OWN_HOST), "{refused}");
    // It can't be dialled in place of another, either.
    let impostor = ca.node("127.0.0.3");
    let address = format!("{OWN_HOST}:0");
    let peers = create_peers_of(OTHER, Dialer::default(), 1, 1);
    let impostor = start_server_with(&address, "a", peers, Some(impostor)).await;
    let refused = identify(&dialer(&ca.node(OTHER_HOST)), &impostor.address, None).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn callers_with_an_unknown_node_number_are_refused_as_unavailable() {
    const UNKNOWN: NodeId = NodeId::new(77);
    let ca = TestCa::new();
    let (server, peers) = start_other_node(&ca).await;
    // A host of no member, and the host of another member.
    for host in ["127.0.0.3", OWN_HOST] {
        let unknown = dialer(&ca.node(host));
        for kind in [StreamKind::Raft, StreamKind::Forwarded, StreamKind::Geo] {
            let refused = open_stream(&unknown, &server, (UNKNOWN, kind)).await;
            assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        }
        assert!(
            peers.take_unknown_caller(),
            "other nodes are asked about it"
        );
        let channel = unknown
            .channel(&server.address, |endpoint| endpoint)
            .await
            .unwrap();
        let mut snapshot = Request::new(stream::empty());
        let greeting = Greeting {
            cluster_id: "a".to_owned(),
            from: UNKNOWN,
            to: OTHER,
        };
        greeting
            .write_metadata(StreamKind::Raft, snapshot.metadata_mut())
            .unwrap();
        let refused = NodeClient::new(channel).install_snapshot(snapshot).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    }
    assert!(peers.take_unknown_caller() && !peers.take_unknown_caller());
}

#[tokio::test]
async fn a_node_is_accepted_once_it_is_known_until_it_is_removed() {
    let ca = TestCa::new();
    let (server, peers) = start_other_node(&ca).await;
    peers.remove(ME);
    let caller = create_peers_of(ME, dialer(&ca.node(OWN_HOST)), 10, 1 << 20);
    caller.set_address(OTHER, &server.address);
    let noticed = async {
        while !peers.take_unknown_caller() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(STATE_TIMEOUT, noticed).await.unwrap();
    peers.set_address(ME, &format!("{OWN_HOST}:1"));
    wait_connected(&caller, true).await;
    peers.remove(ME);
    wait_connected(&caller, false).await;
    // The number of another node doesn't help it, either.
    peers.set_address(ME, "127.0.0.3:1");
    let refused = open_raft_stream(&ca.node(OWN_HOST), &server, ME)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn users_requests_are_refused_from_nodes_that_are_no_members() {
    let ca = TestCa::new();
    let (server, peers) = start_other_node(&ca).await;
    let unknown = dialer(&ca.node("127.0.0.3"));
    let greeting = user_greeting("a", OTHER);
    let (mut replies, _calls) = send_greeting_with(&unknown, &server.address, &greeting).await;
    let welcome: pb::UserWelcome = replies.next().await.unwrap().unwrap();
    assert_eq!(welcome.code, Code::PermissionDenied as u32);
    let forwarder = start_router(unknown, &server.address);
    peers.set_address(NodeId::from(5), "127.0.0.3:1");
    forwarder.wait_connected(true).await;
    assert_eq!(
        reply_body(forwarder.call(user_call("hello")).await),
        "hello"
    );
}

#[tokio::test]
async fn a_connection_for_raft_accepts_nothing_else() {
    let ca = TestCa::new();
    let (server, _) = start_other_node(&ca).await;
    let for_raft = dialer(&ca.node(OWN_HOST)).for_raft();
    let refused = identify(&for_raft, &server.address, None)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    open_stream(&for_raft, &server, (ME, StreamKind::Raft))
        .await
        .unwrap();
    let refused = open_stream(&for_raft, &server, (ME, StreamKind::Forwarded)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_router_may_identify_a_node_and_nothing_else() {
    let ca = TestCa::new();
    let (server, _) = start_other_node(&ca).await;
    let router = ca.router();
    let identity = identify(&dialer(&router), &server.address, None)
        .await
        .unwrap();
    assert_eq!(NodeId::from(identity.node_id), OTHER);
    let request = pb::JoinRequest {
        node_id: 5,
        rpc: "router:7070".to_owned(),
        ..Default::default()
    };
    let refused = join(&dialer(&router), &server.address, request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    for number in [ME, NodeId::from(5)] {
        let refused = open_raft_stream(&router, &server, number)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let channel = dialer(&router)
        .channel(&server.address, |endpoint| endpoint)
        .await
        .unwrap();
    let mut snapshot = Request::new(stream::empty());
    let greeting = Greeting {
        cluster_id: "a".to_owned(),
        from: ME,
        to: OTHER,
    };
    greeting
        .write_metadata(StreamKind::Raft, snapshot.metadata_mut())
        .unwrap();
    let refused = NodeClient::new(channel).install_snapshot(snapshot).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn routers_and_nodes_may_forward_users_requests_only_with_a_certificate() {
    let ca = TestCa::new();
    let (server, _) = start_other_node(&ca).await;
    for tls in [ca.router(), ca.node(OWN_HOST)] {
        let router = start_router(dialer(&tls), &server.address);
        router.wait_connected(true).await;
        assert_eq!(reply_body(router.call(user_call("hello")).await), "hello");
    }
    let (mut replies, _calls) = send_greeting(&server.address, "a", OTHER).await;
    let welcome = replies.next::<pb::UserWelcome>().await;
    assert!(!matches!(welcome, Ok(Some(_))), "{welcome:?}");
}

#[tokio::test]
async fn a_node_joins_at_its_own_address_only() {
    let ca = TestCa::new();
    let (server, _) = start_other_node(&ca).await;
    let joining = dialer(&ca.node(OWN_HOST));
    let request = |rpc: &str| pb::JoinRequest {
        node_id: 5,
        rpc: rpc.to_owned(),
        ..Default::default()
    };
    let refused = join(&joining, &server.address, request("127.0.0.3:7070")).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    // The test handler's reply to authorised callers.
    let authorised = join(&joining, &server.address, request("127.0.0.1:7070")).await;
    assert_eq!(authorised.unwrap_err().message(), "not here");
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_its_stream_only() {
    let ca = TestCa::new();
    let (server, _) = start_other_node(&ca).await;
    let tls = ca.node(OWN_HOST);
    let peers = create_peers_of(ME, dialer(&tls), 10, 1 << 20);
    peers.set_address(OTHER, &server.address);
    wait_connected(&peers, true).await;
    let channel = dialer(&tls)
        .channel(&server.address, |endpoint| endpoint)
        .await
        .unwrap();
    let large = call::Body::Quota(pb::QuotaRequest {
        // The test server's limit is 1 MiB.
        bucket: vec![0; 2 << 20].into(),
    });
    let frame = pb::CallFrame {
        calls: vec![pb::Call {
            id: 1,
            timeout_ms: 1000,
            body: Some(large),
        }],
    };
    let mut request = Request::new(stream::iter([frame]));
    let greeting = Greeting {
        cluster_id: "a".to_owned(),
        from: ME,
        to: OTHER,
    };
    greeting
        .write_metadata(StreamKind::Forwarded, request.metadata_mut())
        .unwrap();
    let replies = NodeClient::new(channel).exchange(request).await.unwrap();
    let end = tokio::time::timeout(STATE_TIMEOUT, replies.into_inner().message()).await;
    assert!(!matches!(end.expect("end of the stream"), Ok(Some(_))));
    peers
        .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
        .await
        .unwrap();
}
