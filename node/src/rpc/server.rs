//! The port for other nodes.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::rpc::{Greeting, Lane};
use cloudkv_proto::tls::{Caller, Connections, Tls, accept};
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_server::{Node, NodeServer};
use futures_util::future::{BoxFuture, join_all, select_all};
use futures_util::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::callers::{caller, check_address, check_node, check_number, unmasked};
use super::exchange::exchange;
use super::peers::Peers;
use super::users::{places_for_routers, serve_routers};
use super::watch::watch;
use crate::raft::NodeId;

/// Streams and calls at once on one connection.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Frames of replies handed to a connection and not taken yet.
const FRAMES_AHEAD: usize = 2;
/// Acknowledgements of a snapshot's chunks: more than its sender leaves unacknowledged.
const ACKS_AHEAD: usize = 64;
/// Time for the calls of users' requests to end before the node stops.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);
/// Time for calls to end when the node stops.
const STREAMS_END: Duration = Duration::from_secs(1);
/// A connection on which nothing comes back for this long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The same where much is carried at once, snapshots among it: what asks whether the other side is
/// there waits behind that.
const BULK_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Chunks of a snapshot on their way in.
pub type Frames = Pin<Box<dyn Stream<Item = Result<pb::SnapshotFrame, Status>> + Send>>;

/// Where a snapshot's receiver says how far it is.
pub type SnapshotAcks = mpsc::Sender<Result<pb::SnapshotAck, Status>>;

/// All that a shard has, on its way out.
pub type Walk = ReceiverStream<Result<pb::WalkFrame, Status>>;

/// What a node answers to others.
pub trait Handler: Send + Sync + 'static {
    /// Answers a call of node `from`, which waits for `timeout` at most. The calls of a stream are
    /// begun in their order: each is polled once before the next is made.
    fn answer(
        &self,
        from: NodeId,
        body: pb::call::Body,
        timeout: Duration,
    ) -> BoxFuture<'static, pb::reply::Body>;

    /// Takes a node in. The caller may be reached at the address that it gives.
    fn join(
        &self,
        caller: Caller,
        request: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>>;

    /// Answers a user's request that came by way of a router; `number` tells requests of a stream
    /// apart.
    fn serve(&self, request: pb::UserRequest, number: u64) -> BoxFuture<'static, pb::UserReply>;

    /// Whether a node has no place in the cluster any more, as far as this one knows.
    fn is_removed(&self, _node: NodeId) -> bool {
        false
    }

    /// The nodes of the cluster, as far as this one knows.
    fn nodes(&self) -> Vec<pb::Member> {
        Vec::new()
    }

    /// Where everything is, and who leads, as this node knows it.
    fn topology(&self) -> pb::Topology;

    /// Sends all that a shard has to a region that joins.
    fn walk(&self, request: pb::WalkRequest) -> Result<Walk, Status>;

    /// Receives a snapshot and installs it; tells `acks` of each chunk.
    fn install(
        &self,
        frames: Frames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>>;
}

/// Where lanes are answered: a connection for Raft on its own threads from its first byte on.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// The Raft lane.
    pub raft: Handle,
    /// The lanes of users' requests: the threads that serve users, one at least.
    pub workers: Vec<Handle>,
    /// What is sent to other regions, and all else.
    pub rest: Handle,
}

impl Runtimes {
    /// All on one.
    pub fn all_on(one: &Handle) -> Self {
        Self {
            raft: one.clone(),
            workers: vec![one.clone()],
            rest: one.clone(),
        }
    }
}

/// Who answers, and what.
#[derive(Clone)]
pub struct Answering {
    /// Who the node is.
    pub identity: pb::IdentifyResponse,
    /// What it does.
    pub handler: Arc<dyn Handler>,
    /// Where.
    pub runtimes: Runtimes,
    /// Bytes of a single message.
    pub message_bytes: usize,
    /// Ends the lane of users' requests.
    pub leaving: Leaving,
    /// Whom the node knows.
    pub peers: Arc<Peers>,
    /// What callers have to show, if they have to show something.
    pub tls: Option<Arc<Tls>>,
}

/// The end of the lane of users' requests, before the rest of the node stops: all calls that others
/// have sent are answered, and they send no more.
#[derive(Clone, Debug, Default)]
pub struct Leaving {
    begun: CancellationToken,
    streams: TaskTracker,
}

impl Leaving {
    /// Cancelled when the node leaves.
    pub(super) fn begun(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// What is waited for.
    pub(super) fn streams(&self) -> &TaskTracker {
        &self.streams
    }

    /// Leaves, and waits until all calls are answered, though not for longer than [`LEAVES_WITHIN`].
    pub async fn leave(&self) {
        self.begun.cancel();
        self.streams.close();
        if tokio::time::timeout(LEAVES_WITHIN, self.streams.wait())
            .await
            .is_err()
        {
            tracing::warn!("some calls of other nodes could not be answered in time");
        }
    }
}

/// Serves other nodes until `stop`, which ends the streams between nodes: they have no end of
/// their own.
pub async fn serve(listener: TcpListener, answering: Answering, stop: CancellationToken) {
    let Runtimes {
        raft,
        workers,
        rest,
    } = &answering.runtimes;
    let accepted = {
        let _there = rest.enter();
        accept(listener, answering.tls.clone(), raft.clone(), workers)
    };
    let port = |for_raft, keep_alive| Port {
        answering: answering.clone(),
        stop: stop.clone(),
        for_raft,
        keep_alive,
    };
    let mut serving = vec![
        raft.spawn(port(true, KEEP_ALIVE).serve_on(accepted.raft)),
        rest.spawn(port(false, BULK_KEEP_ALIVE).serve_on(accepted.others)),
    ];
    let places = places_for_routers();
    for ((worker, users), keys) in workers.iter().zip(accepted.users).zip(accepted.keys) {
        let routers = serve_routers(users, places.clone(), answering.clone(), stop.clone());
        serving.push(worker.spawn(routers));
        serving.push(worker.spawn(port(false, KEEP_ALIVE).serve_on(keys)));
    }
    // They end together; should one fail, the others must not make believe that all is well.
    let (ended, _, rest) = select_all(serving).await;
    if let Err(error) = ended {
        tracing::error!(%error, "serve other nodes");
        rest.iter().for_each(JoinHandle::abort);
    }
    join_all(rest).await;
}

/// The answering side, until it stops.
#[derive(Clone)]
struct Port {
    answering: Answering,
    stop: CancellationToken,
    /// Whether it is that for Raft, on whose threads nothing else is answered.
    for_raft: bool,
    keep_alive: Duration,
}

impl Port {
    /// Serves connections, on the current runtime.
    async fn serve_on(self, connections: Connections) {
        let (limit, stop) = (self.answering.message_bytes, self.stop.clone());
        let keep_alive = self.keep_alive;
        let service = NodeServer::new(self)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Zstd);
        let served = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .http2_keepalive_interval(Some(keep_alive))
            .http2_keepalive_timeout(Some(2 * keep_alive))
            .add_service(service)
            .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
        let cut = async {
            stop.cancelled().await;
            tokio::time::sleep(STREAMS_END).await;
        };
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "serve other nodes");
            },
            () = cut => {}
        }
    }
}

impl Answering {
    /// Which node calls, on which lane, and what it has shown for that.
    fn check<T>(&self, request: &Request<T>) -> Result<(NodeId, Lane, Caller), Status> {
        let identity = &self.identity;
        let (from, lane) =
            Greeting::check(request.metadata(), &identity.cluster_id, identity.node_id)?;
        let caller = caller(request)?;
        check_number(&caller, from, &self.peers)?;
        Ok((from, lane, caller))
    }
}

/// Runs an exchange, but not for longer than the caller can be the node that it says it is.
async fn until_unmasked(
    exchange: impl Future<Output = ()>,
    caller: Caller,
    from: NodeId,
    peers: Arc<Peers>,
    replies: mpsc::Sender<Result<pb::ReplyFrame, Status>>,
) {
    let refused = tokio::select! {
        () = exchange => return,
        refused = unmasked(caller, from, &peers) => refused,
    };
    tracing::warn!(
        from,
        reason = refused.message(),
        "ended a stream of another node"
    );
    // Fails only if the caller has gone.
    let _ = replies.send(Err(refused)).await;
}

impl Port {
    /// Whether a lane may be answered here; `None`: what is no lane.
    fn check_lane(&self, lane: Option<Lane>) -> Result<(), Status> {
        if self.for_raft && lane != Some(Lane::Raft) {
            return Err(Status::permission_denied(
                "the connection was made for Raft and nothing else",
            ));
        }
        Ok(())
    }

    /// Answers the calls of a lane from here on.
    fn open(
        &self,
        (from, lane, caller): (NodeId, Lane, Caller),
        request: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<ReceiverStream<Result<pb::ReplyFrame, Status>>>, Status> {
        let (replies, stream) = mpsc::channel(FRAMES_AHEAD);
        let Answering {
            handler,
            runtimes,
            leaving,
            peers,
            ..
        } = &self.answering;
        // Raft is needed until the groups have stopped.
        let leave = match lane {
            Lane::Raft | Lane::Geo => CancellationToken::new(),
            Lane::Keys | Lane::Users if leaving.begun.is_cancelled() => {
                return Err(Status::unavailable("the node is stopping"));
            }
            Lane::Keys | Lane::Users => leaving.begun.clone(),
        };
        let exchange = exchange(
            (from, lane),
            handler.clone(),
            request.into_inner(),
            replies.clone(),
            leave,
        );
        let exchange = until_unmasked(exchange, caller, from, peers.clone(), replies);
        let exchange = self.stop.clone().run_until_cancelled_owned(exchange);
        match lane {
            Lane::Raft => runtimes.raft.spawn(exchange),
            Lane::Geo => runtimes.rest.spawn(exchange),
            // On the thread that has the connection.
            Lane::Keys | Lane::Users => leaving.streams.spawn(exchange),
        };
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Node for Port {
    type ExchangeStream = ReceiverStream<Result<pb::ReplyFrame, Status>>;
    type WalkStream = Walk;

    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        self.check_lane(None)?;
        let handler = &self.answering.handler;
        let asks = request.get_ref();
        let is_told = asks.nodes && check_node(&caller(&request)?).is_ok();
        Ok(Response::new(pb::IdentifyResponse {
            removed: handler.is_removed(asks.node_id),
            nodes: if is_told { handler.nodes() } else { Vec::new() },
            ..self.answering.identity.clone()
        }))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        self.check_lane(None)?;
        let caller = caller(&request)?;
        check_node(&caller)?;
        check_address(&caller, &request.get_ref().rpc)?;
        let joined = self.answering.handler.join(caller, request.into_inner());
        let joined = joined.await?;
        Ok(Response::new(joined))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (from, lane, caller) = self.answering.check(&request)?;
        self.check_lane(Some(lane))?;
        self.open((from, lane, caller), request)
    }

    type WatchStream = ReceiverStream<Result<pb::Topology, Status>>;

    async fn watch(
        &self,
        _request: Request<pb::TopologyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.check_lane(None)?;
        let (told, stream) = mpsc::channel(FRAMES_AHEAD);
        let watch = watch(self.answering.handler.clone(), told);
        let watch = self.stop.clone().run_until_cancelled_owned(watch);
        self.answering.runtimes.rest.spawn(watch);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn walk(
        &self,
        request: Request<pb::WalkRequest>,
    ) -> Result<Response<Self::WalkStream>, Status> {
        self.check_lane(None)?;
        self.answering.check(&request)?;
        let walk = self.answering.handler.walk(request.into_inner())?;
        Ok(Response::new(walk))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotFrame>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        self.check_lane(None)?;
        self.answering.check(&request)?;
        let frames: Frames = request.into_inner().boxed();
        // Nobody is told: the caller's version knows no acknowledgements.
        let (acks, _) = mpsc::channel(1);
        let installed = self.answering.handler.install(frames, acks);
        Ok(Response::new(installed.await?))
    }

    type SendSnapshotStream = ReceiverStream<Result<pb::SnapshotAck, Status>>;

    async fn send_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotFrame>>,
    ) -> Result<Response<Self::SendSnapshotStream>, Status> {
        self.check_lane(None)?;
        self.answering.check(&request)?;
        let (acks, stream) = mpsc::channel(ACKS_AHEAD);
        let frames: Frames = request.into_inner().boxed();
        let installed = self.answering.handler.install(frames, acks.clone());
        let answer = async move {
            let ack = |reply| pb::SnapshotAck {
                kind: Some(pb::snapshot_ack::Kind::Installed(reply)),
            };
            // Fails only if the caller has gone.
            let _ = acks.send(installed.await.map(ack)).await;
        };
        let answer = self.stop.clone().run_until_cancelled_owned(answer);
        self.answering.runtimes.rest.spawn(answer);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
