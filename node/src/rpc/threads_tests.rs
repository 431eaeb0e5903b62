//! Calls between two nodes that serve users on several threads.

use std::sync::{Arc, mpsc};

use cloudkv_common::server::Workers;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use tokio::runtime::Handle;

use super::tests::{
    ME, OTHER, STATE_TIMEOUT, TestServer, barrier_call, create_peers, create_peers_on,
    start_server_on, wait_connected,
};
use super::{CallError, Dialer, Peers, RpcRuntimes, StreamKind};

const THREAD_COUNT: usize = 3;

/// Starts threads for users' requests; everything else runs on the current runtime.
fn start_threads() -> (Workers, RpcRuntimes) {
    let workers = Workers::start(THREAD_COUNT).unwrap();
    let runtime = Handle::current();
    let runtimes = RpcRuntimes {
        raft: runtime.clone(),
        workers: workers.handles().to_vec(),
        general: runtime,
    };
    (workers, runtimes)
}

async fn start_server() -> (Workers, TestServer) {
    let (workers, runtimes) = start_threads();
    let no_peers = create_peers(1, 1);
    let server = start_server_on(runtimes, "127.0.0.1:0", "a", no_peers, None).await;
    (workers, server)
}

fn start_caller(server: &TestServer, bounds: (usize, usize)) -> (Workers, Arc<Peers>) {
    let (workers, runtimes) = start_threads();
    let peers = create_peers_on(runtimes, ME, Dialer::default(), bounds);
    peers.set_address(OTHER, &server.address);
    (workers, peers)
}

#[tokio::test]
async fn each_thread_has_its_own_stream_and_all_are_drained_together() {
    let (_server_threads, server) = start_server().await;
    let (caller_threads, peers) = start_caller(&server, (100, 1 << 20));
    let mut pending = Vec::new();
    for worker in caller_threads.handles() {
        let peers = peers.clone();
        let call = async move {
            wait_connected(&peers, true).await;
            let delayed = call::Body::AwaitApplied(pb::AwaitApplied {
                group: 0,
                index: u64::MAX,
            });
            let delayed = peers
                .start_call(OTHER, StreamKind::Forwarded, delayed, STATE_TIMEOUT)
                .unwrap();
            // Its reply shows that the call before it has started.
            let sent = peers
                .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
                .await;
            sent.unwrap();
            delayed
        };
        pending.push(worker.spawn(call).await.unwrap());
    }
    let drain = server.drain.clone();
    let drained = tokio::spawn(async move { drain.drain().await });
    for worker in caller_threads.handles() {
        let peers = peers.clone();
        let refused = async move {
            wait_connected(&peers, false).await;
            peers
                .call(OTHER, StreamKind::Forwarded, barrier_call(), STATE_TIMEOUT)
                .await
        };
        let refused = worker.spawn(refused).await.unwrap();
        assert_eq!(refused, Err(CallError::Unsent));
    }
    assert!(!drained.is_finished());
    server.gate.notify_waiters();
    for call in pending {
        let reply = call.wait().await.unwrap();
        assert!(matches!(reply, reply::Body::Position(at) if at.index == u64::MAX));
    }
    tokio::time::timeout(STATE_TIMEOUT, drained)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn queued_calls_to_a_node_are_bounded_over_all_threads() {
    let (_server_threads, server) = start_server().await;
    let (caller_threads, peers) = start_caller(&server, (100 * THREAD_COUNT, 5000));
    let [first, second, ..] = caller_threads.handles() else {
        panic!("several threads");
    };
    for worker in [first, second] {
        let peers = peers.clone();
        let up = async move { wait_connected(&peers, true).await };
        worker.spawn(up).await.unwrap();
    }
    let second = second.clone();
    let fill = async move {
        let large = || {
            call::Body::Quota(pb::QuotaRequest {
                bucket: vec![0; 1000].into(),
            })
        };
        let start = move |peers: &Peers| {
            peers
                .start_call(OTHER, StreamKind::Forwarded, large(), STATE_TIMEOUT)
                .err()
        };
        while start(&peers).is_none() {}
        let (sender, receiver) = mpsc::channel();
        second.spawn(async move { sender.send(start(&peers)) });
        // This thread is blocked meanwhile, so no queued call is sent.
        receiver.recv().unwrap()
    };
    assert_eq!(first.spawn(fill).await.unwrap(), Some(CallError::Busy));
}
