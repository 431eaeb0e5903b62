//! The server of the rpc port: calls of other nodes, and of routers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::rpc::{Greeting, StreamKind};
use cloudkv_proto::tls::{Connections, PeerIdentity, Tls, accept};
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

use super::authorization::{
    caller_of, check_address, check_node, check_node_number, wait_until_unauthorized,
};
use super::exchange::exchange;
use super::peers::Peers;
use super::router_streams::{router_connection_permits, serve_routers};
use super::topology_watch::watch_topology;
use crate::raft::NodeId;

/// Maximum number of concurrent streams and calls on one connection.
const MAX_STREAMS_PER_CONNECTION: u32 = 256;
/// Maximum number of reply frames queued for a connection.
const MAX_QUEUED_FRAMES: usize = 2;
/// Maximum number of a snapshot's acknowledgements queued for a connection: more than its sender
/// leaves chunks unacknowledged.
const MAX_QUEUED_ACKS: usize = 64;
/// Timeout of draining the streams of forwarded requests before the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Grace period for streams to end when the node stops.
const SHUTDOWN_GRACE_PERIOD: Duration = Duration::from_secs(1);
/// HTTP/2 keepalive interval. A connection without an answer for twice as long is closed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Keepalive interval of connections that carry bulk data, snapshots among it: keepalive pings wait
/// behind the data.
const BULK_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Incoming chunks of a snapshot.
pub(crate) type SnapshotFrames =
    Pin<Box<dyn Stream<Item = Result<pb::SnapshotFrame, Status>> + Send>>;

/// Outgoing acknowledgements of a snapshot's chunks.
pub(crate) type SnapshotAcks = mpsc::Sender<Result<pb::SnapshotAck, Status>>;

/// Outgoing chunks of a shard's bulk copy.
pub(crate) type BulkCopyStream = ReceiverStream<Result<pb::BulkCopyFrame, Status>>;

/// Handler of the calls that other nodes and routers make.
pub(crate) trait RpcHandler: Send + Sync + 'static {
    /// Handles a call of node `from`, which waits for `timeout` at most. The calls of a stream are
    /// started in their order: each is polled once before the next is made.
    fn handle_call(
        &self,
        from: NodeId,
        body: pb::call::Body,
        timeout: Duration,
    ) -> BoxFuture<'static, pb::reply::Body>;

    /// Lets a node join the cluster. The caller's certificate names the host of the address that it
    /// gives.
    fn join(
        &self,
        caller: PeerIdentity,
        request: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>>;

    /// Handles a user's request that a router forwarded; `number` is unique within its stream.
    fn handle_user_request(
        &self,
        request: pb::UserRequest,
        number: u64,
    ) -> BoxFuture<'static, pb::UserReply>;

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
    fn bulk_copy(&self, request: pb::BulkCopyRequest) -> Result<BulkCopyStream, Status>;

    /// Receives a snapshot and installs it; sends an acknowledgement of each chunk to `acks`.
    fn install_snapshot(
        &self,
        frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>>;
}

/// Runtimes on which streams are served: a connection for Raft on its own threads from its first
/// byte on.
#[derive(Clone, Debug)]
pub struct RpcRuntimes {
    /// Raft's streams.
    pub raft: Handle,
    /// Streams of users' requests: the threads that serve users, one at least.
    pub workers: Vec<Handle>,
    /// Propagation between regions, and everything else.
    pub general: Handle,
}

impl RpcRuntimes {
    /// Serves all streams on one runtime.
    pub fn all_on(runtime: &Handle) -> Self {
        Self {
            raft: runtime.clone(),
            workers: vec![runtime.clone()],
            general: runtime.clone(),
        }
    }
}

/// Dependencies and settings of the server.
#[derive(Clone)]
pub(crate) struct RpcServerContext {
    /// Identity of this node.
    pub identity: pb::IdentifyResponse,
    /// Handler of the calls.
    pub handler: Arc<dyn RpcHandler>,
    /// Runtimes on which streams are served.
    pub runtimes: RpcRuntimes,
    /// Maximum size of a message, in bytes.
    pub message_bytes: usize,
    /// Drains the streams of users' requests.
    pub drain: StreamDrain,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Certificates, if callers need one.
    pub tls: Option<Arc<Tls>>,
}

/// Drains the streams of users' requests before the rest of the node stops: all calls that others
/// have sent are answered, and they send no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamDrain {
    started: CancellationToken,
    streams: TaskTracker,
}

impl StreamDrain {
    /// Returns a token that is cancelled when draining starts.
    pub(super) fn started(&self) -> CancellationToken {
        self.started.clone()
    }

    /// Returns the tracker of the streams that are drained.
    pub(super) fn streams(&self) -> &TaskTracker {
        &self.streams
    }

    /// Starts draining, and waits until all calls are answered, for up to [`DRAIN_TIMEOUT`].
    pub(crate) async fn drain(&self) {
        self.started.cancel();
        self.streams.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.streams.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                timeout = ?DRAIN_TIMEOUT,
                "draining forwarded requests timed out, some calls get no reply"
            );
        }
    }
}

/// Serves the rpc port until `stop`, which ends the streams between nodes: they don't end by
/// themselves.
pub(crate) async fn serve(
    listener: TcpListener,
    context: RpcServerContext,
    stop: CancellationToken,
) {
    let RpcRuntimes {
        raft,
        workers,
        general: rest,
    } = &context.runtimes;
    let accepted = {
        let _entered = rest.enter();
        accept(listener, context.tls.clone(), raft.clone(), workers)
    };
    let service = |is_raft_only, keepalive_interval| NodeService {
        context: context.clone(),
        stop: stop.clone(),
        is_raft_only,
        keepalive_interval,
    };
    let mut tasks = vec![
        raft.spawn(service(true, KEEPALIVE_INTERVAL).serve_connections(accepted.raft)),
        rest.spawn(service(false, BULK_KEEPALIVE_INTERVAL).serve_connections(accepted.others)),
    ];
    let permits = router_connection_permits();
    for ((worker, users), keys) in workers.iter().zip(accepted.users).zip(accepted.forwarded) {
        let routers = serve_routers(users, permits.clone(), context.clone(), stop.clone());
        tasks.push(worker.spawn(routers));
        tasks.push(worker.spawn(service(false, KEEPALIVE_INTERVAL).serve_connections(keys)));
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
struct NodeService {
    context: RpcServerContext,
    stop: CancellationToken,
    /// True on the connections for Raft, on whose threads nothing else is served.
    is_raft_only: bool,
    keepalive_interval: Duration,
}

impl NodeService {
    /// Serves connections, on the current runtime.
    async fn serve_connections(self, connections: Connections) {
        let (limit, stop) = (self.context.message_bytes, self.stop.clone());
        let keep_alive = self.keepalive_interval;
        let service = NodeServer::new(self)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Zstd);
        let served = Server::builder()
            .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .http2_keepalive_interval(Some(keep_alive))
            .http2_keepalive_timeout(Some(2 * keep_alive))
            .add_service(service)
            .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
        let grace_period_over = async {
            stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE_PERIOD).await;
        };
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::error!(%error, "rpc server failed");
            },
            () = grace_period_over => {}
        }
    }
}

impl RpcServerContext {
    /// Authenticates the caller, and returns the node, the stream kind and the certificate.
    fn authenticate<T>(
        &self,
        request: &Request<T>,
    ) -> Result<(NodeId, StreamKind, PeerIdentity), Status> {
        let identity = &self.identity;
        let (from, kind) =
            Greeting::from_metadata(request.metadata(), &identity.cluster_id, identity.node_id)?;
        let caller = caller_of(request)?;
        check_node_number(&caller, from, &self.peers)?;
        Ok((from, kind, caller))
    }
}

/// Runs an exchange until the caller turns out not to be the node that it claims to be.
async fn run_while_authorized(
    exchange: impl Future<Output = ()>,
    caller: PeerIdentity,
    from: NodeId,
    peers: Arc<Peers>,
    replies: mpsc::Sender<Result<pb::ReplyFrame, Status>>,
) {
    let refused = tokio::select! {
        () = exchange => return,
        refused = wait_until_unauthorized(caller, from, &peers) => refused,
    };
    tracing::warn!(
        node = peers.name_of(from),
        reason = refused.message(),
        "stream closed: the caller is not the node that it claims to be"
    );
    // Fails only if the caller has disconnected.
    let _ = replies.send(Err(refused)).await;
}

impl NodeService {
    /// Refuses other calls than Raft's on a connection for Raft; `None` is a call outside of a
    /// stream.
    fn check_stream_kind(&self, kind: Option<StreamKind>) -> Result<(), Status> {
        if self.is_raft_only && kind != Some(StreamKind::Raft) {
            return Err(Status::permission_denied(
                "the connection is for Raft only: use another one",
            ));
        }
        Ok(())
    }

    /// Spawns the task that handles the calls of a stream.
    fn open_stream(
        &self,
        (from, kind, caller): (NodeId, StreamKind, PeerIdentity),
        request: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<ReceiverStream<Result<pb::ReplyFrame, Status>>>, Status> {
        let (replies, stream) = mpsc::channel(MAX_QUEUED_FRAMES);
        let RpcServerContext {
            handler,
            runtimes,
            drain: leaving,
            peers,
            ..
        } = &self.context;
        // Raft's streams are needed until the groups have stopped.
        let drain = match kind {
            StreamKind::Raft | StreamKind::Geo => CancellationToken::new(),
            StreamKind::Forwarded | StreamKind::Users if leaving.started.is_cancelled() => {
                return Err(Status::unavailable("the node is stopping"));
            }
            StreamKind::Forwarded | StreamKind::Users => leaving.started.clone(),
        };
        let exchange = exchange(
            (from, kind),
            handler.clone(),
            request.into_inner(),
            replies.clone(),
            drain,
        );
        let exchange = run_while_authorized(exchange, caller, from, peers.clone(), replies);
        let exchange = self.stop.clone().run_until_cancelled_owned(exchange);
        match kind {
            StreamKind::Raft => runtimes.raft.spawn(exchange),
            StreamKind::Geo => runtimes.general.spawn(exchange),
            // These stay on the connection's thread.
            StreamKind::Forwarded | StreamKind::Users => leaving.streams.spawn(exchange),
        };
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    type ExchangeStream = ReceiverStream<Result<pb::ReplyFrame, Status>>;
    type WalkStream = BulkCopyStream;

    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        self.check_stream_kind(None)?;
        let handler = &self.context.handler;
        let query = request.get_ref();
        let with_nodes = query.nodes && check_node(&caller_of(&request)?).is_ok();
        Ok(Response::new(pb::IdentifyResponse {
            removed: handler.is_removed(query.node_id),
            nodes: if with_nodes {
                handler.nodes()
            } else {
                Vec::new()
            },
            ..self.context.identity.clone()
        }))
    }

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        self.check_stream_kind(None)?;
        let caller = caller_of(&request)?;
        check_node(&caller)?;
        check_address(&caller, &request.get_ref().rpc)?;
        let response = self.context.handler.join(caller, request.into_inner());
        let response = response.await?;
        Ok(Response::new(response))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let (from, kind, caller) = self.context.authenticate(&request)?;
        self.check_stream_kind(Some(kind))?;
        self.open_stream((from, kind, caller), request)
    }

    type WatchStream = ReceiverStream<Result<pb::Topology, Status>>;

    async fn watch(
        &self,
        _request: Request<pb::TopologyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.check_stream_kind(None)?;
        let (updates, stream) = mpsc::channel(MAX_QUEUED_FRAMES);
        let watch = watch_topology(self.context.handler.clone(), updates);
        let watch = self.stop.clone().run_until_cancelled_owned(watch);
        self.context.runtimes.general.spawn(watch);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn walk(
        &self,
        request: Request<pb::BulkCopyRequest>,
    ) -> Result<Response<Self::WalkStream>, Status> {
        self.check_stream_kind(None)?;
        self.context.authenticate(&request)?;
        let chunks = self.context.handler.bulk_copy(request.into_inner())?;
        Ok(Response::new(chunks))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotFrame>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        self.check_stream_kind(None)?;
        self.context.authenticate(&request)?;
        let frames: SnapshotFrames = request.into_inner().boxed();
        // Acknowledgements are dropped: the caller's version knows none.
        let (acks, _) = mpsc::channel(1);
        let installation = self.context.handler.install_snapshot(frames, acks);
        Ok(Response::new(installation.await?))
    }

    type SendSnapshotStream = ReceiverStream<Result<pb::SnapshotAck, Status>>;

    async fn send_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotFrame>>,
    ) -> Result<Response<Self::SendSnapshotStream>, Status> {
        self.check_stream_kind(None)?;
        self.context.authenticate(&request)?;
        let (acks, stream) = mpsc::channel(MAX_QUEUED_ACKS);
        let frames: SnapshotFrames = request.into_inner().boxed();
        let installation = self.context.handler.install_snapshot(frames, acks.clone());
        let task = async move {
            let ack = |reply| pb::SnapshotAck {
                kind: Some(pb::snapshot_ack::Kind::Installed(reply)),
            };
            // Fails only if the caller has disconnected.
            let _ = acks.send(installation.await.map(ack)).await;
        };
        let task = self.stop.clone().run_until_cancelled_owned(task);
        self.context.runtimes.general.spawn(task);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
