//! Test replicas of a shard on real storage and real sockets, without a node around them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_common::byte_budget::ByteBudget;
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

use super::{ShardHandle, ShardSettings};
use crate::clock::Clock;
use crate::raft::{Group, GroupSettings, NodeId, RaftMember, SnapshotSettings};
use crate::rpc::{
    BulkCopyStream, Dialer, PeerIdentity, Peers, PeersSettings, RpcClientSettings, RpcHandler,
    RpcRuntimes, RpcServerContext, SnapshotAcks, SnapshotFrames, StreamDrain, serve,
};
use crate::store::{Engine, EngineSettings};

const BUCKET: &[u8; 14] = b"aABCDEFGHIJKLM";
const KEY: &[u8] = b"key";
/// Node ids of the replicas; the first bootstraps the shard.
pub(super) const NODES: [NodeId; 3] = [NodeId::new(1), NodeId::new(2), NodeId::new(3)];
/// Timeout of waits for an expected state.
pub(super) const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum election timeout: a follower withholds its vote for as long.
pub(super) const MAX_ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

/// Handler that answers Raft calls with its only shard.
struct SingleShard {
    member: Arc<dyn RaftMember>,
    /// True to drop all requests for a leadership transfer.
    loses_transfers: Arc<AtomicBool>,
}

impl RpcHandler for SingleShard {
    fn handle_call(
        &self,
        _: NodeId,
        body: call::Body,
        _: Duration,
    ) -> BoxFuture<'static, reply::Body> {
        match body {
            call::Body::Append(append) => self.member.append(append),
            call::Body::Vote(vote) => self.member.vote(vote),
            call::Body::Transfer(transfer) if !self.loses_transfers.load(Ordering::Acquire) => {
                self.member.accept_leadership(transfer)
            }
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

    fn bulk_copy(&self, _: pb::BulkCopyRequest) -> Result<BulkCopyStream, Status> {
        Err(Status::unimplemented("not implemented here"))
    }

    fn install_snapshot(
        &self,
        mut frames: SnapshotFrames,
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
                Some(snapshot_frame::Kind::Header(head)) => {
                    member.install_snapshot(head, frames, acks).await
                }
                _ => Err(Status::invalid_argument(
                    "a snapshot begins with its header",
                )),
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
            block_cache_bytes: 1 << 20,
            write_buffer_bytes: 4 << 20,
            log_segment_bytes: 1 << 20,
            compaction_rate: 0,
        };
        // The tasks of a replica that was stopped release the directory one after the other.
        let engine = wait_until("the directory is free", async || {
            Engine::open(dir.path(), &settings).ok()
        });
        let engine = Arc::new(engine.await);
        let settings = shard_settings(node, &address, &peers, &stop);
        let bootstrap = pb::BootstrapShard {
            region: 1,
            incarnation: 1,
            level: super::feature_level::MAX_FEATURE_LEVEL,
            ..Default::default()
        };
        let shard = ShardHandle::start(engine, 0, &settings, bootstrap)
            .await
            .unwrap();
        let member: Arc<dyn RaftMember> = shard.group().clone();
        let loses_transfers = Arc::<AtomicBool>::default();
        let answering = RpcServerContext {
            identity: pb::IdentifyResponse {
                cluster_id: "a".to_owned(),
                node_id: node.into(),
                ..Default::default()
            },
            handler: Arc::new(SingleShard {
                member,
                loses_transfers: loses_transfers.clone(),
            }),
            runtimes: RpcRuntimes::all_on(&Handle::current()),
            message_bytes: 16 << 20,
            drain: StreamDrain::default(),
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

    pub(super) async fn shut_down(self) -> TempDir {
        self.stop.cancel();
        self.shard.group().stop().await.unwrap();
        self.dir
    }

    pub(super) fn group(&self) -> &Group<super::Shard> {
        self.shard.group()
    }

    pub(super) async fn put(&self, number: u64) -> bool {
        self.put_key(KEY, number, STATE_TIMEOUT).await
    }

    /// Puts a number at a key. Returns whether that was acknowledged in time.
    pub(super) async fn put_key(&self, key: &[u8], number: u64, timeout: Duration) -> bool {
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
        self.get_key(KEY).await
    }

    /// Reads the number at a key, 0 if there is none, if this node serves.
    pub(super) async fn get_key(&self, key: &[u8]) -> Option<u64> {
        let entry = self.shard.get(BUCKET, key).await.ok()?.into_value();
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
        client: RpcClientSettings {
            max_calls: 1000,
            max_queue_bytes: 16 << 20,
            max_message_bytes: 16 << 20,
        },
        runtimes: RpcRuntimes::all_on(&Handle::current()),
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
            rpc_address: address.to_owned(),
            peers: peers.clone(),
            bootstraps: node == NODES[0],
            append_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: MAX_ELECTION_TIMEOUT / 2,
            election_timeout_max: MAX_ELECTION_TIMEOUT,
            log_cache_bytes: 1 << 20,
            log_retention_limits: (1000, 1 << 20),
            snapshots: SnapshotSettings::new(100),
            disk_space: Arc::default(),
        },
        batch: ShardSettings::batch(1000, 100, 1 << 20, 2),
        record_cache: 1 << 20,
        recent_changes_bytes: 1 << 20,
        pinned_changes_bytes: 1 << 20,
        write_budget: ByteBudget::new(16 << 20),
        merge_budget: ByteBudget::new(16 << 20),
        merge_scheduler: crate::background::BackgroundScheduler::new(100),
        disk_reads: Arc::new(Semaphore::new(10)),
        disk_runtime: Handle::current(),
        clock: Clock::new(),
        is_clock_ok: Arc::new(AtomicBool::new(true)),
        stop: stop.clone(),
    }
}

/// Polls until there is a value, within a timeout.
pub(super) async fn wait_until<T>(
    description: &str,
    mut poll: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = poll().await {
            return value;
        }
        assert!(
            start.elapsed() < STATE_TIMEOUT,
            "timed out waiting until {description}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Tells all replicas the addresses of the others.
pub(super) fn connect_all(replicas: &[Replica]) {
    for replica in replicas {
        for (node, other) in NODES.into_iter().zip(replicas) {
            replica.peers.set_address(node, &other.address);
        }
    }
}
