//! Tests of sending snapshots to a running group over connections that break.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::snapshot_frame::Kind as Frame;
use cloudkv_proto::v1::{call, reply};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};

use super::group::Group;
use super::snapshot::{self, SnapshotData};
use super::snapshot_receiver_tests::{KEY_COUNT, count_records, group, peers};
use super::snapshot_sender::send_snapshot;
use super::snapshot_transfers::{
    SnapshotSettings, SnapshotTransfers, TransferDirection, TransferStatus,
};
use super::storage_tests::{GROUP, apply, open, put};
use super::types::Vote;
use crate::rpc::{
    BulkCopyStream, PeerIdentity, Peers, RpcHandler, RpcRuntimes, RpcServerContext, SnapshotAcks,
    SnapshotFrames, StreamDrain, serve,
};
use crate::shard::Shard;
use crate::store::{Engine, EngineSettings};
use crate::types::NodeId;

const RECEIVER: NodeId = NodeId::new(1);
const SENDER: NodeId = NodeId::new(2);
/// Bytes that pass before the proxy stalls: some of the snapshot's chunks.
const BYTES_BEFORE_STALL: u64 = 400 << 10;
const STATE_TIMEOUT: Duration = Duration::from_secs(20);

/// Handler of a node that has one group.
struct TestHandler(Arc<Group<Shard>>);

impl RpcHandler for TestHandler {
    fn handle_call(
        &self,
        _: NodeId,
        _: call::Body,
        _: Duration,
    ) -> BoxFuture<'static, reply::Body> {
        std::future::pending().boxed()
    }

    fn join(
        &self,
        _: PeerIdentity,
        _: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>> {
        std::future::ready(Err(Status::unimplemented("not implemented in this test"))).boxed()
    }

    fn handle_user_request(&self, _: pb::UserRequest, _: u64) -> BoxFuture<'static, pb::UserReply> {
        std::future::pending().boxed()
    }

    fn topology(&self) -> pb::Topology {
        pb::Topology::default()
    }

    fn bulk_copy(&self, _: pb::BulkCopyRequest) -> Result<BulkCopyStream, Status> {
        Err(Status::unimplemented("not implemented in this test"))
    }

    fn install_snapshot(
        &self,
        mut frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        let group = self.0.clone();
        async move {
            let first = frames.next().await.transpose()?;
            let Some(Frame::Header(head)) = first.and_then(|frame| frame.kind) else {
                return Err(Status::invalid_argument(
                    "a snapshot begins with its header",
                ));
            };
            group.receive_snapshot(head, frames, acks).await
        }
        .boxed()
    }
}

/// Listens for snapshots of the group.
async fn listen(group: &Arc<Group<Shard>>) -> (SocketAddr, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answering = RpcServerContext {
        identity: pb::IdentifyResponse {
            cluster_id: "a".to_owned(),
            node_id: RECEIVER.into(),
            ..Default::default()
        },
        handler: Arc::new(TestHandler(group.clone())),
        runtimes: RpcRuntimes::all_on(&Handle::current()),
        message_bytes: 16 << 20,
        drain: StreamDrain::default(),
        peers: peers(RECEIVER),
        tls: None,
    };
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, answering, stop.clone()));
    (address, stop.drop_guard())
}

/// Proxy on which a connection stalls once so many bytes were sent to the receiver. A change of the
/// number breaks the connection.
async fn stalling_proxy(to: SocketAddr) -> (SocketAddr, watch::Sender<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (limit, limits) = watch::channel(BYTES_BEFORE_STALL);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(carry(client, to, limits.clone()));
        }
    });
    (address, limit)
}

async fn carry(mut client: TcpStream, to: SocketAddr, mut limits: watch::Receiver<u64>) {
    let limit = *limits.borrow_and_update();
    let mut target = TcpStream::connect(to).await.unwrap();
    let (from_client, mut to_client) = client.split();
    let (mut from_target, mut to_target) = target.split();
    let requests = async {
        let mut limited = from_client.take(limit);
        tokio::io::copy(&mut limited, &mut to_target).await.ok();
        if limited.limit() == 0 {
            std::future::pending::<()>().await;
        }
        to_target.shutdown().await.ok();
    };
    let replies = async {
        tokio::io::copy(&mut from_target, &mut to_client).await.ok();
    };
    tokio::select! {
        _ = async { tokio::join!(requests, replies) } => {}
        _ = limits.changed() => {}
    }
}

/// State, RPC clients and transfers of a sender.
struct Source {
    dir: TempDir,
    peers: Arc<Peers>,
    transfers: Arc<SnapshotTransfers>,
}

impl Source {
    fn new(receiver: SocketAddr) -> Self {
        let peers = peers(SENDER);
        peers.set_address(RECEIVER, &receiver.to_string());
        Self {
            dir: tempfile::tempdir().unwrap(),
            peers,
            transfers: SnapshotTransfers::new(GROUP, SnapshotSettings::new(100), |node| {
                node.to_string()
            }),
        }
    }

    async fn send(&self, engine: &Engine) -> Result<Vote, Status> {
        let rows = snapshot::current_rows(&engine.state, GROUP).unwrap();
        let data = SnapshotData::live(engine.state.clone(), rows);
        let vote = Vote::new_committed(1, SENDER);
        let (peers, transfers) = (&self.peers, &self.transfers);
        send_snapshot(peers, transfers, RECEIVER, data, &vote, KEY_COUNT).await
    }

    fn status(&self) -> Option<TransferStatus> {
        self.transfers.statuses().pop()
    }

    /// Waits until the receiver has some chunks.
    async fn wait_started(&self) {
        eventually(|| self.status().is_some_and(|status| status.chunks > 0)).await;
    }
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let condition = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let reached = tokio::time::timeout(STATE_TIMEOUT, condition).await;
    reached.expect("the condition holds in time");
}

#[tokio::test]
async fn a_new_connection_resumes_the_snapshot_of_the_same_view() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let first_generation = snapshot::current_rows(&group.engine().state, GROUP).unwrap();
    let (port, _stop) = listen(&group).await;
    let (address, limit) = stalling_proxy(port).await;
    let source = Source::new(address);
    let (engine, _log, mut replica) = open(&source.dir);
    let entries = (1..=KEY_COUNT).map(|index| put(index, &format!("one-{index}")));
    apply(&mut replica, entries.collect()).await;

    let meanwhile = async {
        source.wait_started().await;
        apply(&mut replica, vec![put(KEY_COUNT + 1, "two-1")]).await;
        limit.send_replace(u64::MAX);
    };
    let (sent, ()) = tokio::join!(source.send(&engine), meanwhile);

    sent.unwrap();
    let all = usize::try_from(KEY_COUNT).unwrap();
    assert_eq!(count_records(group.engine(), "one", KEY_COUNT), all);
    assert_eq!(count_records(group.engine(), "two", 1), 0);
    // A snapshot that had started again would have been received into another generation.
    let rows = snapshot::current_rows(&group.engine().state, GROUP).unwrap();
    assert_eq!(rows.generation(), first_generation.generation() + 1);
    let counts = source.transfers.counts(TransferDirection::Sent);
    let [bytes, done, failed] = [&counts.bytes, &counts.completed, &counts.failed]
        .map(|count| count.load(Ordering::Relaxed));
    let status = source.status().unwrap();
    assert_eq!((bytes, done, failed), (status.bytes, 1, 0));
    assert_eq!(status.state(), "done");
    let received = group.transfers().counts(TransferDirection::Received);
    assert_eq!(received.bytes.load(Ordering::Relaxed), status.bytes);
    assert_eq!(received.failed.load(Ordering::Relaxed), 1);
    group.stop().await.unwrap();
}

#[tokio::test]
async fn the_view_and_the_retained_log_are_released_with_the_sender() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let (port, _stop) = listen(&group).await;
    let (address, _limit) = stalling_proxy(port).await;
    let source = Source::new(address);
    {
        let (engine, _log, mut replica) = open(&source.dir);
        let entries = (1..=KEY_COUNT).map(|index| put(index, &format!("one-{index}")));
        apply(&mut replica, entries.collect()).await;
        let retained = async {
            source.wait_started().await;
            source.transfers.retained_index(|_| None)
        };
        // The branch that isn't chosen is dropped, as a leader drops its transfers when it loses
        // leadership.
        let retained = tokio::select! {
            sent = source.send(&engine) => panic!("the proxy is stalled: {sent:?}"),
            retained = retained => retained,
        };
        assert_eq!(retained, Some(KEY_COUNT));
    }

    let status = source.status().unwrap();
    assert_eq!(status.state(), "failed");
    assert_eq!(
        status.error.as_deref(),
        Some("this node does not lead any more")
    );
    assert_eq!(source.transfers.retained_index(|_| None), None);
    // A reader of the view would have the database open.
    let settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 4 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    eventually(|| Engine::open(source.dir.path(), &settings).is_ok()).await;
    group.stop().await.unwrap();
}

#[tokio::test]
async fn a_transfer_whose_log_is_released_is_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let (port, _stop) = listen(&group).await;
    let (address, _limit) = stalling_proxy(port).await;
    let source = Source::new(address);
    let (engine, _log, mut replica) = open(&source.dir);
    let entries = (1..=KEY_COUNT).map(|index| put(index, &format!("one-{index}")));
    apply(&mut replica, entries.collect()).await;

    let meanwhile = async {
        source.wait_started().await;
        source.transfers.cancel_before(KEY_COUNT + 1);
    };
    let (sent, ()) = tokio::join!(source.send(&engine), meanwhile);

    assert_eq!(sent.unwrap_err().code(), Code::Aborted);
    assert_eq!(source.status().unwrap().state(), "failed");
    let counts = source.transfers.counts(TransferDirection::Sent);
    assert_eq!(counts.failed.load(Ordering::Relaxed), 1);
    group.stop().await.unwrap();
}
