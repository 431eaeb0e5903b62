//! Test replicas of a shard on real storage and real sockets, without a node around them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply, snapshot_frame};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{QueueBudget, ShardHandle, ShardSettings};
use crate::clock::Clock;
use crate::raft::{Group, GroupSettings, Member, NodeId, SnapshotSettings};
use crate::rpc::{
    Answering, Caller, Dialer, Frames, Handler, Leaving, LinkSettings, Peers, PeersSettings,
    Runtimes, SnapshotAcks, Walk, serve,
};
use crate::store::{Engine, EngineSettings};

const BUCKET: &[u8; 14] = b"aABCDEFGHIJKLM";
const KEY: &[u8] = b"key";
/// Node ids of the replicas; the first bootstraps the shard.
pub(super) const NODES: [NodeId; 3] = [1, 2, 3];
/// Timeout of waits for an expected state.
pub(super) const SOON: Duration = Duration::from_secs(30);
/// Maximum election timeout: a follower withholds its vote for as long.
pub(super) const ELECTION_MAX: Duration = Duration::from_millis(300);

/// Handler that answers Raft calls with its only shard.
struct Only {
    member: Arc<dyn Member>,
    /// True to drop all requests for a leadership transfer.
    loses_transfers: Arc<AtomicBool>,
}

impl Handler for Only {
    fn answer(&self, _: NodeId, body: call::Body, _: Duration) -> BoxFuture<'static, reply::Body> {
        match body {
            call::Body::Append(append) => self.member.append(append),
            call::Body::Vote(vote) => self.member.vote(vote),
            call::Body::Transfer(transfer) if !self.loses_transfers.load(Ordering::Acquire) => {
                self.member.transfer(transfer)
            }
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
        std::future::ready(pb::UserReply {
            status,
            body,
            ..Default::default()
        })
        .boxed()
    }

    fn topology(&self) -> pb::Topology {
        pb::Topology::default()
    }

    fn walk(&self, _: pb::WalkRequest) -> Result<Walk, Status> {
        Err(Status::unimplemented("not implemented here"))
    }

    fn install(
        &self,
        mut frames: Frames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        let member = self.member.clone();
        async move {
            match frames
                .next()
                .await
                .transpose()?
                .and_then(|frame| frame.kind)
            {
                Some(snapshot_frame::Kind::Head(head)) => member.install(head, frames, acks).await,
                _ => Err(Status::invalid_argument("a snapshot begins with its header")),
            }
        }
        .boxed()
    }
}

/// A node with one shard.
pub(super) struct Replica {
    pub(super) shard: Arc<ShardHandle>,
    pub(super) peers: Arc<Peers>,
    pub(super) address: String,
    pub(super) stop: CancellationToken,
    pub(super) loses_transfers: Arc<AtomicBool>,
    dir: TempDir,
}

impl Replica {
    pub(super) async fn start(node: NodeId, dir: TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peers = peers(node);
        let stop = CancellationToken::new();
        let settings = EngineSettings {
            block_cache: 1 << 20,
            write_buffer: 4 << 20,
            log_segment: 1 << 20,
            compaction_rate: 0,
        };
        // The tasks of a replica that was stopped release the directory one after the other.
        let engine = until("the directory is free", async || {
            Engine::open(dir.path(), &settings).ok()
        });
        let engine = Arc::new(engine.await);
        let settings = shard_settings(node, &address, &peers, &stop);
        let bootstrap = pb::Found {
            region: 1,
            incarnation: 1,
            level: super::LEVEL,
            ..Default::default()
        };
        let shard = ShardHandle::start(engine, 0, &settings, bootstrap)
            .await
            .unwrap();
        let member: Arc<dyn Member> = shard.group().clone();
        let loses_transfers = Arc::<AtomicBool>::default();
        let answering = Answering {
            identity: pb::IdentifyResponse {
                cluster_id: "a".to_owned(),
                node_id: node,
                ..Default::default()
            },
            handler: Arc::new(Only {
                member,
                loses_transfers: loses_transfers.clone(),
            }),
            runtimes: Runtimes::all_on(&Handle::current()),
            message_bytes: 16 << 20,
            leaving: Leaving::default(),
            peers: peers.clone(),
            tls: None,
        };
        tokio::spawn(serve(listener, answering, stop.clone()));
        Self {
            shard,
            peers,
            address,
            stop,
            loses_transfers,
            dir,
        }
    }

    pub(super) async fn end(self) -> TempDir {
        self.stop.cancel();
        self.shard.group().stop().await.unwrap();
        self.dir
    }

    pub(super) fn group(&self) -> &Group<super::Shard> {
        self.shard.group()
    }

    pub(super) async fn put(&self, number: u64) -> bool {
        self.put_at(KEY, number, SOON).await
    }

    /// Puts a number at a key. Returns whether that was acknowledged in time.
    pub(super) async fn put_at(&self, key: &[u8], number: u64, timeout: Duration) -> bool {
        let write = pb::Write {
            bucket: Bytes::from_static(BUCKET),
            key: Bytes::copy_from_slice(key),
            condition: None,
            op: Some(pb::write::Op::Put(pb::Put {
                value: Bytes::from(number.to_be_bytes().to_vec()),
                may_create: true,
                ..Default::default()
            })),
        };
        self.shard.write(write, None, timeout).await.is_ok()
    }

    /// Reads the number that was put last, if this node serves.
    pub(super) async fn get(&self) -> Option<u64> {
        self.get_at(KEY).await
    }

    /// Reads the number at a key, 0 if there is none, if this node serves.
    pub(super) async fn get_at(&self, key: &[u8]) -> Option<u64> {
        let entry = self.shard.get(BUCKET, key).await.ok()?.entry();
        let value = entry.map_or([0; 8], |entry| entry.value[..].try_into().unwrap());
        Some(u64::from_be_bytes(value))
    }
}

/// Creates the clients of one node to the others.
pub(super) fn peers(me: NodeId) -> Arc<Peers> {
    Peers::new(PeersSettings {
        cluster_id: "a".to_owned(),
        me,
        dialer: Dialer::default(),
        link: LinkSettings {
            calls: 1000,
            queue_bytes: 16 << 20,
            message_bytes: 16 << 20,
        },
        runtimes: Runtimes::all_on(&Handle::current()),
    })
}

fn shard_settings(
    node: NodeId,
    address: &str,
    peers: &Arc<Peers>,
    stop: &CancellationToken,
) -> ShardSettings {
    ShardSettings {
        group: GroupSettings {
            node,
            rpc: address.to_owned(),
            peers: peers.clone(),
            founds: node == NODES[0],
            append_timeout: Duration::from_secs(1),
            heartbeat: Duration::from_millis(50),
            election_min: ELECTION_MAX / 2,
            election_max: ELECTION_MAX,
            log_cache: 1 << 20,
            log_keep: (1000, 1 << 20),
            snapshots: SnapshotSettings::new(100),
            space: Arc::default(),
        },
        batch: ShardSettings::batch(1000, 100, 1 << 20, 2),
        record_cache: 1 << 20,
        budget: QueueBudget::new(16 << 20),
        merge_budget: QueueBudget::new(16 << 20),
        merge_pace: crate::pace::Pace::new(100),
        disk_reads: Arc::new(Semaphore::new(10)),
        disk: Handle::current(),
        clock: Clock::new(),
        clock_ok: Arc::new(AtomicBool::new(true)),
        stop: stop.clone(),
    }
}

/// Polls until there is a value, within a timeout.
pub(super) async fn until<T>(description: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(start.elapsed() < SOON, "timed out waiting until {description}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Tells all replicas the addresses of the others.
pub(super) fn introduce(replicas: &[Replica]) {
    for replica in replicas {
        for (node, other) in NODES.into_iter().zip(replicas) {
            replica.peers.learn(node, &other.address);
        }
    }
}
