//! Calls between two nodes that serve users on several threads.

use std::sync::{Arc, mpsc};

use cloudkv_common::server::Workers;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use tokio::runtime::Handle;

use super::tests::{ME, OTHER, SOON, Server, barrier, connected, peers, peers_on, server_on};
use super::{CallError, Dialer, Lane, Peers, Runtimes};

const THREADS: usize = 3;

/// Starts threads for users' requests; everything else runs on the current runtime.
fn threads() -> (Workers, Runtimes) {
    let workers = Workers::start(THREADS).unwrap();
    let runtime = Handle::current();
    let runtimes = Runtimes {
        raft: runtime.clone(),
        workers: workers.handles().to_vec(),
        rest: runtime,
    };
    (workers, runtimes)
}

async fn server() -> (Workers, Server) {
    let (workers, runtimes) = threads();
    let no_peers = peers(1, 1);
    let server = server_on(runtimes, "127.0.0.1:0", "a", no_peers, None).await;
    (workers, server)
}

fn caller(server: &Server, bounds: (usize, usize)) -> (Workers, Arc<Peers>) {
    let (workers, runtimes) = threads();
    let peers = peers_on(runtimes, ME, Dialer::default(), bounds);
    peers.learn(OTHER, &server.address);
    (workers, peers)
}

#[tokio::test]
async fn each_thread_has_its_own_stream_and_all_are_drained_together() {
    let (_server_threads, server) = server().await;
    let (caller_threads, peers) = caller(&server, (100, 1 << 20));
    let mut pending = Vec::new();
    for worker in caller_threads.handles() {
        let peers = peers.clone();
        let call = async move {
            connected(&peers, true).await;
            let delayed = call::Body::AwaitApplied(pb::AwaitApplied {
                group: 0,
                index: u64::MAX,
            });
            let delayed = peers.start(OTHER, Lane::Keys, delayed, SOON).unwrap();
            // Its reply shows that the call before it has started.
            let sent = peers.call(OTHER, Lane::Keys, barrier(), SOON).await;
            sent.unwrap();
            delayed
        };
        pending.push(worker.spawn(call).await.unwrap());
    }
    let drain = server.leaving.clone();
    let drained = tokio::spawn(async move { drain.leave().await });
    for worker in caller_threads.handles() {
        let peers = peers.clone();
        let refused = async move {
            connected(&peers, false).await;
            peers.call(OTHER, Lane::Keys, barrier(), SOON).await
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
    tokio::time::timeout(SOON, drained).await.unwrap().unwrap();
}

#[tokio::test]
async fn queued_calls_to_a_node_are_bounded_over_all_threads() {
    let (_server_threads, server) = server().await;
    let (caller_threads, peers) = caller(&server, (100 * THREADS, 5000));
    let [first, second, ..] = caller_threads.handles() else {
        panic!("several threads");
    };
    for worker in [first, second] {
        let peers = peers.clone();
        let up = async move { connected(&peers, true).await };
        worker.spawn(up).await.unwrap();
    }
    let second = second.clone();
    let fill = async move {
        let large = || {
            call::Body::Room(pb::RoomRequest {
                bucket: vec![0; 1000].into(),
            })
        };
        let start = move |peers: &Peers| peers.start(OTHER, Lane::Keys, large(), SOON).err();
        while start(&peers).is_none() {}
        let (sender, receiver) = mpsc::channel();
        second.spawn(async move { sender.send(start(&peers)) });
        // This thread is blocked meanwhile, so no queued call is sent.
        receiver.recv().unwrap()
    };
    assert_eq!(first.spawn(fill).await.unwrap(), Some(CallError::Busy));
}
