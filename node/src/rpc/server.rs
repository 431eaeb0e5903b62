//! The server of the rpc port: calls of other nodes, and of routers.

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

/// Maximum number of concurrent streams and calls on one connection.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Maximum number of reply frames queued for a connection.
const FRAMES_AHEAD: usize = 2;
/// Maximum number of a snapshot's acknowledgements queued for a connection: more than its sender
/// leaves chunks unacknowledged.
const ACKS_AHEAD: usize = 64;
/// Timeout of draining the streams of forwarded requests before the node stops.
const LEAVES_WITHIN: Duration = Duration::from_secs(2);
/// Grace period for streams to end when the node stops.
const STREAMS_END: Duration = Duration::from_secs(1);
/// HTTP/2 keepalive interval. A connection without an answer for twice as long is closed.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Keepalive interval of connections that carry bulk data, snapshots among it: keepalive pings wait
/// behind the data.
const BULK_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Incoming chunks of a snapshot.
pub type Frames = Pin<Box<dyn Stream<Item = Result<pb::SnapshotFrame, Status>> + Send>>;

/// Outgoing acknowledgements of a snapshot's chunks.
pub type SnapshotAcks = mpsc::Sender<Result<pb::SnapshotAck, Status>>;

/// Outgoing chunks of a shard's bulk copy.
pub type Walk = ReceiverStream<Result<pb::WalkFrame, Status>>;

/// Handler of the calls that other nodes and routers make.
pub trait Handler: Send + Sync + 'static {
    /// Handles a call of node `from`, which waits for `timeout` at most. The calls of a stream are
    /// started in their order: each is polled once before the next is made.
    fn answer(
        &self,
        from: NodeId,
        body: pb::call::Body,
        timeout: Duration,
    ) -> BoxFuture<'static, pb::reply::Body>;

    /// Lets a node join the cluster. The caller's certificate names the host of the address that it
    /// gives.
    fn join(
        &self,
        caller: Caller,
        request: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>>;

    /// Handles a user's request that a router forwarded; `number` is unique within its stream.
    fn serve(&self, request: pb::UserRequest, number: u64) -> BoxFuture<'static, pb::UserReply>;

    /// Returns whether a node was removed from the cluster, as far as this node knows.
    fn is_removed(&self, _node: NodeId) -> bool {
        false
    }

    /// Returns the nodes of the cluster, as far as this node knows.
    fn nodes(&self) -> Vec<pb::Member> {
        Vec::new()
    }

    /// Returns the topology with the leaders of all groups, as this node knows it.
    fn topology(&self) -> pb::Topology;

    /// Streams a bulk copy of a shard to a region that joins.
    fn walk(&self, request: pb::WalkRequest) -> Result<Walk, Status>;

    /// Receives a snapshot and installs it; sends an acknowledgement of each chunk to `acks`.
    fn install(
        &self,
        frames: Frames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>>;
}

/// Runtimes on which streams are served: a connection for Raft on its own threads from its first
/// byte on.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// Raft's streams.
    pub raft: Handle,
    /// Streams of users' requests: the threads that serve users, one at least.
    pub workers: Vec<Handle>,
    /// Propagation between regions, and everything else.
    pub rest: Handle,
}

impl Runtimes {
    /// Serves all streams on one runtime.
    pub fn all_on(runtime: &Handle) -> Self {
        Self {
            raft: runtime.clone(),
            workers: vec![runtime.clone()],
            rest: runtime.clone(),
        }
    }
}

/// Dependencies and settings of the server.
#[derive(Clone)]
pub struct Answering {
    /// Identity of this node.
    pub identity: pb::IdentifyResponse,
    /// Handler of the calls.
    pub handler: Arc<dyn Handler>,
    /// Runtimes on which streams are served.
    pub runtimes: Runtimes,
    /// Maximum size of a message, in bytes.
    pub message_bytes: usize,
    /// Drains the streams of users' requests.
    pub leaving: Leaving,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Certificates, if callers need one.
    pub tls: Option<Arc<Tls>>,
}

/// Drains the streams of users' requests before the rest of the node stops: all calls that others
/// have sent are answered, and they send no more.
#[derive(Clone, Debug, Default)]
pub struct Leaving {
    begun: CancellationToken,
    streams: TaskTracker,
}

impl Leaving {
    /// Returns a token that is cancelled when draining starts.
    pub(super) fn begun(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// Returns the tracker of the streams that are drained.
    pub(super) fn streams(&self) -> &TaskTracker {
        &self.streams
    }

    /// Starts draining, and waits until all calls are answered, for up to [`DRAIN_TIMEOUT`].
    pub async fn leave(&self) {
        self.begun.cancel();
        self.streams.close();
        if tokio::time::timeout(LEAVES_WITHIN, self.streams.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                timeout = ?LEAVES_WITHIN,
                "draining forwarded requests timed out, some calls get no reply"
            );
        }
    }
}

/// Serves the rpc port until `stop`, which ends the streams between nodes: they don't end by
/// themselves.
pub async fn serve(listener: TcpListener, context: Answering, stop: CancellationToken) {
    let Runtimes {
        raft,
        workers,
        rest,
    } = &context.runtimes;
    let accepted = {
        let _entered = rest.enter();
        accept(listener, context.tls.clone(), raft.clone(), workers)
    };
    let service = |is_raft_only, keepalive_interval| Port {
        answering: context.clone(),
        stop: stop.clone(),
        for_raft: is_raft_only,
        keep_alive: keepalive_interval,
    };
    let mut tasks = vec![
        raft.spawn(service(true, KEEP_ALIVE).serve_on(accepted.raft)),
        rest.spawn(service(false, BULK_KEEP_ALIVE).serve_on(accepted.others)),
    ];
    let permits = places_for_routers();
    for ((worker, users), keys) in workers.iter().zip(accepted.users).zip(accepted.keys) {
        let routers = serve_routers(users, permits.clone(), context.clone(), stop.clone());
        tasks.push(worker.spawn(routers));
        tasks.push(worker.spawn(service(false, KEEP_ALIVE).serve_on(keys)));
    }
    // The tasks end together. If one fails, the others are aborted: half a server must not look
    // healthy.
    let (ended, _, others) = select_all(tasks).await;
    if let Err(error) = ended {
        tracing::error!(%error, "rpc server task failed");
        others.iter().for_each(JoinHandle::abort);
    }
    join_all(others).await;
}

/// The gRPC service of the rpc port.
#[derive(Clone)]
struct Port {
    answering: Answering,
    stop: CancellationToken,
    /// True on the connections for Raft, on whose threads nothing else is served.
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
        let grace_period_over = async {
            stop.cancelled().await;
            tokio::time::sleep(STREAMS_END).await;
        };
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "rpc server failed");
            },
            () = grace_period_over => {}
        }
    }
}

impl Answering {
    /// Authenticates the caller, and returns the node, the stream kind and the certificate.
    fn check<T>(&self, request: &Request<T>) -> Result<(NodeId, Lane, Caller), Status> {
        let identity = &self.identity;
        let (from, kind) =
            Greeting::check(request.metadata(), &identity.cluster_id, identity.node_id)?;
        let caller = caller(request)?;
        check_number(&caller, from, &self.peers)?;
        Ok((from, kind, caller))
    }
}

/// Runs an exchange until the caller turns out not to be the node that it claims to be.
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
        node = from,
        reason = refused.message(),
        "stream closed: the caller is not the node that it claims to be"
    );
    // Fails only if the caller has disconnected.
    let _ = replies.send(Err(refused)).await;
}

impl Port {
    /// Refuses other calls than Raft's on a connection for Raft; `None` is a call outside of a
    /// stream.
    fn check_lane(&self, kind: Option<Lane>) -> Result<(), Status> {
        if self.for_raft && kind != Some(Lane::Raft) {
            return Err(Status::permission_denied(
                "the connection is for Raft only: use another one",
            ));
        }
        Ok(())
    }

    /// Spawns the task that handles the calls of a stream.
    fn open(
        &self,
        (from, kind, caller): (NodeId, Lane, Caller),
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
        // Raft's streams are needed until the groups have stopped.
        let drain = match kind {
            Lane::Raft | Lane::Geo => CancellationToken::new(),
            Lane::Keys | Lane::Users if leaving.begun.is_cancelled() => {
                return Err(Status::unavailable("the node is stopping"));
            }
            Lane::Keys | Lane::Users => leaving.begun.clone(),
        };
        let exchange = exchange(
            (from, kind),
            handler.clone(),
            request.into_inner(),
            replies.clone(),
            drain,
        );
        let exchange = until_unmasked(exchange, caller, from, peers.clone(), replies);
        let exchange = self.stop.clone().run_until_cancelled_owned(exchange);
        match kind {
            Lane::Raft => runtimes.raft.spawn(exchange),
            Lane::Geo => runtimes.rest.spawn(exchange),
            // These stay on the connection's thread.
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
        let query = request.get_ref();
        let with_nodes = query.nodes && check_node(&caller(&request)?).is_ok();
        Ok(Response::new(pb::IdentifyResponse {
            removed: handler.is_removed(query.node_id),
            nodes: if with_nodes { handler.nodes() } else { Vec::new() },
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
        let response = self.answering.handler.join(caller, request.into_inner());
        let response = response.await?;
        Ok(Response::new(response))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (from, kind, caller) = self.answering.check(&request)?;
        self.check_lane(Some(kind))?;
        self.open((from, kind, caller), request)
    }

    type WatchStream = ReceiverStream<Result<pb::Topology, Status>>;

    async fn watch(
        &self,
        _request: Request<pb::TopologyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.check_lane(None)?;
        let (updates, stream) = mpsc::channel(FRAMES_AHEAD);
        let watch = watch(self.answering.handler.clone(), updates);
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
        let chunks = self.answering.handler.walk(request.into_inner())?;
        Ok(Response::new(chunks))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotFrame>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        self.check_lane(None)?;
        self.answering.check(&request)?;
        let frames: Frames = request.into_inner().boxed();
        // Acknowledgements are dropped: the caller's version knows none.
        let (acks, _) = mpsc::channel(1);
        let installation = self.answering.handler.install(frames, acks);
        Ok(Response::new(installation.await?))
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
        let installation = self.answering.handler.install(frames, acks.clone());
        let task = async move {
            let ack = |reply| pb::SnapshotAck {
                kind: Some(pb::snapshot_ack::Kind::Installed(reply)),
            };
            // Fails only if the caller has disconnected.
            let _ = acks.send(installation.await.map(ack)).await;
        };
        let task = self.stop.clone().run_until_cancelled_owned(task);
        self.answering.runtimes.rest.spawn(task);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
