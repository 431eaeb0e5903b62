//! gRPC streams of other nodes.

use cloudkv_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::exchange::{CallReader, Disconnected, ReplyWriter, StreamHandler, exchange};

/// Handles the calls of a node until their stream ends. When `drain` is cancelled, the node is told
/// so, all calls that it has sent by then are answered, and the stream ends.
pub fn serve_grpc_stream(
    handler: impl StreamHandler,
    calls: Streaming<pb::CallFrame>,
    replies: mpsc::Sender<Result<pb::ReplyFrame, Status>>,
    drain: CancellationToken,
) -> impl Future<Output = ()> + Send {
    exchange(handler, calls, replies, drain)
}

impl CallReader for Streaming<pb::CallFrame> {
    async fn next(&mut self) -> Result<Option<pb::CallFrame>, Disconnected> {
        self.message().await.map_err(|_| Disconnected)
    }
}

impl ReplyWriter for mpsc::Sender<Result<pb::ReplyFrame, Status>> {
    async fn send(&mut self, frame: pb::ReplyFrame) -> Result<(), Disconnected> {
        mpsc::Sender::send(self, Ok(frame))
            .await
            .map_err(|_| Disconnected)
    }

    async fn closed(&self) {
        mpsc::Sender::closed(self).await;
    }
}
