//! The gRPC service of the rpc port: calls of other nodes, and of routers.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::transport::tls::PeerIdentity;
use cloudkv_common::transport::{StreamHandler, StreamKind, serve_grpc_stream};
use cloudkv_proto::v1::node_server::Node;
use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::authorization::{caller_of, check_address, check_node, wait_until_unauthorized};
use super::handler::{BulkCopyStream, RpcHandler, ScanStream, ShardScanStream, SnapshotFrames};
use super::peers::Peers;
use super::server_context::RpcServerContext;
use super::topology_watch::watch_topology;
use crate::types::NodeId;

/// Maximum number of reply frames queued for a connection.
const MAX_QUEUED_FRAMES: usize = 2;
/// Maximum number of a snapshot's acknowledgements queued for a connection: more than its sender
/// leaves chunks unacknowledged.
const MAX_QUEUED_ACKS: usize = 64;

/// The gRPC service of the rpc port.
#[derive(Clone)]
pub(super) struct NodeService {
    pub(super) context: RpcServerContext,
    /// Ends the streams.
    pub(super) stop: CancellationToken,
    /// True on the connections for Raft, on whose threads nothing else is served.
    pub(super) is_raft_only: bool,
}

/// Handler of the calls on the stream of a node.
struct NodeCalls {
    from: NodeId,
    handler: Arc<dyn RpcHandler>,
}

impl StreamHandler for NodeCalls {
    type Output = reply::Body;

    fn start(
        &self,
        _id: u64,
        body: call::Body,
        timeout: Duration,
    ) -> Option<BoxFuture<'static, reply::Body>> {
        match body {
            // They are accepted on streams of their own only.
            call::Body::User(_) => None,
            body => Some(self.handler.handle_call(self.from, body, timeout)),
        }
    }

    fn reply_body(output: reply::Body) -> reply::Body {
        output
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
            StreamKind::Forwarded if leaving.is_started() => {
                return Err(Status::unavailable("the node is stopping"));
            }
            StreamKind::Forwarded => leaving.started(),
        };
        let handler = handler.clone();
        let calls = NodeCalls { from, handler };
        let exchange = serve_grpc_stream(calls, request.into_inner(), replies.clone(), drain);
        let exchange = run_while_authorized(exchange, caller, from, peers.clone(), replies);
        let exchange = self.stop.clone().run_until_cancelled_owned(exchange);
        match kind {
            StreamKind::Raft => runtimes.raft.spawn(exchange),
            StreamKind::Geo => runtimes.general.spawn(exchange),
            // These stay on the connection's thread.
            StreamKind::Forwarded => leaving.streams().spawn(exchange),
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
            removed: handler.is_removed(NodeId::from(query.node_id)),
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

    type ScanBucketStream = ScanStream;

    async fn scan_bucket(
        &self,
        request: Request<pb::ScanRequest>,
    ) -> Result<Response<Self::ScanBucketStream>, Status> {
        self.check_stream_kind(None)?;
        let (from, ..) = self.context.authenticate(&request)?;
        if !self.context.peers.is_same_region(from) {
            return Err(Status::permission_denied(
                "only nodes of this region may scan a bucket",
            ));
        }
        let frames = self.context.handler.scan_bucket(request.into_inner())?;
        Ok(Response::new(frames))
    }

    type ScanShardStream = ShardScanStream;

    async fn scan_shard(
        &self,
        request: Request<pb::ShardScanRequest>,
    ) -> Result<Response<Self::ScanShardStream>, Status> {
        self.check_stream_kind(None)?;
        let (from, ..) = self.context.authenticate(&request)?;
        if !self.context.peers.is_same_region(from) {
            return Err(Status::permission_denied(
                "only nodes of this region may scan a shard",
            ));
        }
        let frames = self.context.handler.scan_shard(request.into_inner())?;
        Ok(Response::new(frames))
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
