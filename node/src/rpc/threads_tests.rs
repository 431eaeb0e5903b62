//! Calls between two nodes that serve users on several threads.

use std::sync::{Arc, mpsc};

use cloudkv_common::server::Workers;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use tokio::runtime::Handle;

use super::tests::{ME, OTHER, SOON, Server, barrier, connected, peers, peers_on, server_on};
use super::{CallError, Dialer, Lane, Peers, Runtimes};

const THREADS: usize = 3;

/// Threads for users, and all else here.
fn threads() -> (Workers, Runtimes) {
    let workers = Workers::start(THREADS).unwrap();
    let here = Handle::current();
    let runtimes = Runtimes {
        raft: here.clone(),
        workers: workers.handles().to_vec(),
        rest: here,
    };
    (workers, runtimes)
}

async fn server() -> (Workers, Server) {
    let (workers, runtimes) = threads();
    let nobody = peers(1, 1);
    let server = server_on(runtimes, "127.0.0.1:0", "a", nobody, None).await;
    (workers, server)
}

fn caller(server: &Server, bounds: (usize, usize)) -> (Workers, Arc<Peers>) {
    let (workers, runtimes) = threads();
    let peers = peers_on(runtimes, ME, Dialer::default(), bounds);
    peers.learn(OTHER, &server.address);
    (workers, peers)
}

#[tokio::test]
async fn each_thread_has_a_link_of_its_own_and_all_are_left_together() {
    let (_serving, server) = server().await;
    let (calling, peers) = caller(&server, (100, 1 << 20));
    let mut under_way = Vec::new();
    for worker in calling.handles() {
        let peers = peers.clone();
        let call = async move {
            connected(&peers, true).await;
            let late = call::Body::AwaitApplied(pb::AwaitApplied {
                group: 0,
                index: u64::MAX,
            });
            let late = peers.start(OTHER, Lane::Keys, late, SOON).unwrap();
            // Answered after the call before it has begun.
            let sent = peers.call(OTHER, Lane::Keys, barrier(), SOON).await;
            sent.unwrap();
            late
        };
        under_way.push(worker.spawn(call).await.unwrap());
    }
    let leaving = server.leaving.clone();
    let left = tokio::spawn(async move { leaving.leave().await });
    for worker in calling.handles() {
        let peers = peers.clone();
        let refused = async move {
            connected(&peers, false).await;
            peers.call(OTHER, Lane::Keys, barrier(), SOON).await
        };
        let refused = worker.spawn(refused).await.unwrap();
        assert_eq!(refused, Err(CallError::Unsent));
    }
    assert!(!left.is_finished());
    server.gate.notify_waiters();
    for late in under_way {
        let reply = late.wait().await.unwrap();
        assert!(matches!(reply, reply::Body::Position(at) if at.index == u64::MAX));
    }
    tokio::time::timeout(SOON, left).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_waits_for_a_peer_is_bounded_over_all_threads() {
    let (_serving, server) = server().await;
    let (calling, peers) = caller(&server, (100 * THREADS, 5000));
    let [first, second, ..] = calling.handles() else {
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
        let (told, said) = mpsc::channel();
        second.spawn(async move { told.send(start(&peers)) });
        // This thread stands still meanwhile, so nothing of what waits is sent.
        said.recv().unwrap()
    };
    assert_eq!(first.spawn(fill).await.unwrap(), Some(CallError::Busy));
}
