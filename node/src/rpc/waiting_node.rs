//! The rpc port of a new node whose address belongs to a member: nodes that call the member there
//! are refused with the reason, instead of waiting for a greeting.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::transport::tls::{AcceptedConnections, Tls, accept};
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_server::Node;
use futures_util::StreamExt;
use futures_util::stream::select_all;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::handler::{BulkCopyStream, ScanStream, ShardScanStream};
use super::server::{ConnectionBounds, serve_connections};

/// Bounds of the connections, on which nothing but small requests is read.
const BOUNDS: ConnectionBounds = ConnectionBounds {
    message_bytes: 64 << 10,
    keepalive_interval: Duration::from_secs(2),
};

/// Refuses all calls on the current runtime until `stop`. `conflict` is the reason for which the
/// node isn't admitted, if that is its address.
pub(crate) async fn refuse_calls(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    conflict: watch::Receiver<Option<String>>,
    stop: CancellationToken,
) {
    let here = Handle::current();
    let AcceptedConnections {
        raft,
        users,
        forwarded,
        others,
    } = accept(listener, tls, here.clone(), &[here]);
    let calls = select_all(forwarded.into_iter().chain([raft, others])).boxed();
    let served = serve_connections(WaitingNode { conflict }, BOUNDS, calls, stop);
    // Routers are disconnected at once: other nodes serve them.
    let disconnected = select_all(users).for_each(|connection| {
        drop(connection);
        ready(())
    });
    // Both end with the task that accepts connections.
    tokio::join!(served, disconnected);
}

/// The gRPC service of a node that waits to be admitted.
struct WaitingNode {
    conflict: watch::Receiver<Option<String>>,
}

impl WaitingNode {
    /// Refuses a stream to the member that has this node's address.
    fn refuse_stream(&self) -> Status {
        let conflict = self.conflict.borrow().clone();
        conflict.map_or_else(not_joined, |reason| {
            Status::failed_precondition(format!(
                "a new node waits at its address to join the cluster: {reason}"
            ))
        })
    }
}

/// Refuses a call that only a member can answer: the caller may retry.
fn not_joined() -> Status {
    Status::unavailable("this node has not joined a cluster yet")
}

#[tonic::async_trait]
impl Node for WaitingNode {
    type ExchangeStream = ReceiverStream<Result<pb::ReplyFrame, Status>>;
    type WalkStream = BulkCopyStream;
    type ScanBucketStream = ScanStream;
    type ScanShardStream = ShardScanStream;
    type WatchStream = ReceiverStream<Result<pb::Topology, Status>>;
    type SendSnapshotStream = ReceiverStream<Result<pb::SnapshotAck, Status>>;

    async fn identify(
        &self,
        _request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        Err(not_joined())
    }

    async fn join(
        &self,
        _request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinResponse>, Status> {
        Err(not_joined())
    }

    async fn exchange(
        &self,
        _request: Request<Streaming<pb::CallFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(self.refuse_stream())
    }

    async fn watch(
        &self,
        _request: Request<pb::TopologyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(not_joined())
    }

    async fn walk(
        &self,
        _request: Request<pb::BulkCopyRequest>,
    ) -> Result<Response<Self::WalkStream>, Status> {
        Err(not_joined())
    }

    async fn scan_bucket(
        &self,
        _request: Request<pb::ScanRequest>,
    ) -> Result<Response<Self::ScanBucketStream>, Status> {
        Err(not_joined())
    }

    async fn scan_shard(
        &self,
        _request: Request<pb::ShardScanRequest>,
    ) -> Result<Response<Self::ScanShardStream>, Status> {
        Err(not_joined())
    }

    async fn install_snapshot(
        &self,
        _request: Request<Streaming<pb::SnapshotFrame>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        Err(not_joined())
    }

    async fn send_snapshot(
        &self,
        _request: Request<Streaming<pb::SnapshotFrame>>,
    ) -> Result<Response<Self::SendSnapshotStream>, Status> {
        Err(not_joined())
    }
}
