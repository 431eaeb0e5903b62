//! Handler of the calls that other nodes and routers make.

use std::pin::Pin;
use std::time::Duration;

use cloudkv_common::transport::tls::PeerIdentity;
use cloudkv_proto::v1 as pb;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::types::NodeId;

/// Incoming chunks of a snapshot.
pub(crate) type SnapshotFrames =
    Pin<Box<dyn Stream<Item = Result<pb::SnapshotFrame, Status>> + Send>>;

/// Outgoing acknowledgements of a snapshot's chunks.
pub(crate) type SnapshotAcks = mpsc::Sender<Result<pb::SnapshotAck, Status>>;

/// Outgoing chunks of a shard's bulk copy.
pub(crate) type BulkCopyStream = ReceiverStream<Result<pb::BulkCopyFrame, Status>>;

/// Outgoing frames of a scan of a bucket.
pub(crate) type ScanStream = ReceiverStream<Result<pb::ScanFrame, Status>>;

/// Outgoing frames of a scan of a shard.
pub(crate) type ShardScanStream = ReceiverStream<Result<pb::ShardScanFrame, Status>>;

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

    /// Streams the live keys of a bucket in a shard to a node of the same region.
    fn scan_bucket(&self, _request: pb::ScanRequest) -> Result<ScanStream, Status> {
        Err(Status::unimplemented("this node makes no scans for others"))
    }

    /// Streams the live records of a shard to a node of the same region.
    fn scan_shard(&self, _request: pb::ShardScanRequest) -> Result<ShardScanStream, Status> {
        Err(Status::unimplemented("this node makes no scans for others"))
    }

    /// Receives a snapshot and installs it; sends an acknowledgement of each chunk to `acks`.
    fn install_snapshot(
        &self,
        frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>>;
}
