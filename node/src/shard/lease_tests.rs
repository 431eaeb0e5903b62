//! Three replicas of a shard, on real storage and real sockets: who may answer reads, and who may
//! not any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use crate::raft::{Group, GroupSettings, Member, Members, NodeId, Step};
use crate::rpc::{
    Answering, Caller, Dialer, Frames, Handler, Lane, Leaving, LinkSettings, Peers, PeersSettings,
    Runtimes, Walk, serve,
};
use crate::store::{Engine, EngineSettings};

const BUCKET: &[u8; 14] = b"aABCDEFGHIJKLM";
const KEY: &[u8] = b"key";
const NODES: [NodeId; 3] = [1, 2, 3];
const SOON: Duration = Duration::from_secs(30);
const ELECTION_MAX: Duration = Duration::from_millis(300);

/// Answers the calls of Raft with the one shard that there is.
struct Only(Arc<dyn Member>);

impl Handler for Only {
    fn answer(&self, _: NodeId, body: call::Body, _: Duration) -> BoxFuture<'static, reply::Body> {
        match body {
            call::Body::Append(append) => self.0.append(append),
            call::Body::Vote(vote) => self.0.vote(vote),
            call::Body::Transfer(transfer) => self.0.transfer(transfer),
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
        Err(Status::unimplemented("not asked here"))
    }

    fn install(&self, mut frames: Frames) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        let member = self.0.clone();
        async move {
            match frames
                .next()
                .await
                .transpose()?
                .and_then(|frame| frame.kind)
            {
                Some(snapshot_frame::Kind::Head(head)) => member.install(head, frames).await,
                _ => Err(Status::invalid_argument("a snapshot begins with its head")),
            }
        }
        .boxed()
    }
}

/// A node with one shard.
struct Replica {
    shard: Arc<ShardHandle>,
    peers: Arc<Peers>,
    address: String,
    stop: CancellationToken,
    dir: TempDir,
}

impl Replica {
    async fn start(node: NodeId, dir: TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peers = peers(node);
        let stop = CancellationToken::new();
        let settings = EngineSettings {
            block_cache: 1 << 20,
            write_buffer: 4 << 20,
            log_segment: 1 << 20,
        };
        // The tasks of a replica that has ended let go of it one after the other.
        let engine = until("the directory is free", async || {
            Engine::open(dir.path(), &settings).ok()
        });
        let engine = Arc::new(engine.await);
        let settings = shard_settings(node, &address, &peers, &stop);
        let found = pb::Found {
            region: 1,
            incarnation: 1,
            level: super::LEVEL,
            ..Default::default()
        };
        let shard = ShardHandle::start(engine, 0, &settings, found)
            .await
            .unwrap();
        let member: Arc<dyn Member> = shard.group().clone();
        let answering = Answering {
            identity: pb::IdentifyResponse {
                cluster_id: "a".to_owned(),
                node_id: node,
                ..Default::default()
            },
            handler: Arc::new(Only(member)),
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
            dir,
        }
    }

    async fn end(self) -> TempDir {
        self.stop.cancel();
        self.shard.group().stop().await.unwrap();
        self.dir
    }

    fn group(&self) -> &Group<super::Shard> {
        self.shard.group()
    }

    async fn put(&self, number: u64) -> bool {
        let write = pb::Write {
            bucket: Bytes::from_static(BUCKET),
            key: Bytes::from_static(KEY),
            condition: None,
            op: Some(pb::write::Op::Put(pb::Put {
                value: Bytes::from(number.to_be_bytes().to_vec()),
                may_create: true,
                ..Default::default()
            })),
        };
        self.shard.write(write, None, SOON).await.is_ok()
    }

    /// The number that was put last, if this node answers.
    async fn get(&self) -> Option<u64> {
        let entry = self.shard.get(BUCKET, KEY).await.ok()?.entry();
        let value = entry.map_or([0; 8], |entry| entry.value[..].try_into().unwrap());
        Some(u64::from_be_bytes(value))
    }
}

fn peers(me: NodeId) -> Arc<Peers> {
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

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < SOON, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Three voters, of which the first leads.
async fn three() -> Vec<Replica> {
    let mut replicas = Vec::new();
    for node in NODES {
        replicas.push(Replica::start(node, tempfile::tempdir().unwrap()).await);
    }
    introduce(&replicas);
    let wanted = Members {
        voters: NODES.to_vec(),
        learners: Vec::new(),
        addresses: NODES
            .into_iter()
            .zip(replicas.iter().map(|it| it.address.clone()))
            .collect(),
    };
    let first = &replicas[0];
    until("three voters", async || {
        first.shard.serves().then_some(())?;
        (first.group().approach(&wanted).await == Step::Done).then_some(())
    })
    .await;
    replicas
}

fn introduce(replicas: &[Replica]) {
    for replica in replicas {
        for (node, other) in NODES.into_iter().zip(replicas) {
            replica.peers.learn(node, &other.address);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_leader_answers_no_read_through_a_thousand_transfers() {
    let replicas = Arc::new(three().await);
    // The highest number whose write was answered.
    let acknowledged = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..NODES.len())
        .map(|at| {
            let (replicas, acknowledged) = (replicas.clone(), acknowledged.clone());
            let done = done.clone();
            tokio::spawn(async move {
                let mut answered = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let before = acknowledged.load(Ordering::SeqCst);
                    if let Some(seen) = replicas[at].get().await {
                        assert!(seen >= before, "{seen} was read after {before} was written");
                        answered += 1;
                    }
                    tokio::task::yield_now().await;
                }
                answered
            })
        })
        .collect();
    let (mut leader, mut handed) = (0, 0);
    for number in 1..=1000_u64 {
        until("a write is answered", async || {
            leader = replicas
                .iter()
                .position(|it| it.shard.serves())
                .unwrap_or(leader);
            replicas[leader].put(number).await.then_some(())
        })
        .await;
        acknowledged.store(number, Ordering::SeqCst);
        let others: Vec<NodeId> = NODES
            .into_iter()
            .filter(|it| *it != NODES[leader])
            .collect();
        handed += u32::from(replicas[leader].group().hand_over(&others).await);
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0, "a node answered no read");
    }
    assert!(handed > 900, "{handed} of 1000 came about");
    for replica in replicas.iter() {
        replica.group().stop().await.unwrap();
        replica.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_restarts_gives_no_vote_while_an_old_lease_may_hold() {
    let mut replicas = three().await;
    let follower = replicas.pop().unwrap();
    // It can neither hear of the leader, nor be asked by it.
    let restarted = Replica::start(NODES[2], follower.end().await).await;
    let began = Instant::now();
    let asker = peers(NODES[1]);
    asker.learn(NODES[2], &restarted.address);
    let ask = async |transfer| {
        let body = call::Body::Vote(pb::RequestVote {
            group: 1,
            vote: Some(pb::Vote {
                term: 1000,
                candidate: NODES[1],
                committed: false,
            }),
            last: Some(pb::LogId {
                term: 999,
                index: 1 << 40,
            }),
            pre: false,
            transfer,
        });
        asker
            .call(NODES[2], Lane::Raft, body, Duration::from_secs(1))
            .await
            .ok()
    };
    let first = until("an answer", async || ask(false).await).await;
    let refused = matches!(first, reply::Body::Refused(_));
    // On a machine that stood still meanwhile, the wait may be over.
    assert!(refused || began.elapsed() >= ELECTION_MAX, "{first:?}");
    let granted = until("a vote", async || match ask(false).await? {
        reply::Body::Vote(answer) => answer.granted.then_some(()),
        _ => None,
    });
    granted.await;
    assert!(began.elapsed() >= ELECTION_MAX);
    // What the leader itself asks for needs no wait.
    let again = Replica::start(NODES[2], restarted.end().await).await;
    asker.learn(NODES[2], &again.address);
    let asked = until("an answer", async || ask(true).await).await;
    assert!(matches!(asked, reply::Body::Vote(_)), "{asked:?}");
    for replica in replicas.into_iter().chain([again]) {
        replica.end().await;
    }
}
