//! Protocols of an RPC client: gRPC, or plain frames.

use std::future::Future;
use std::io;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_client::NodeClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use crate::transport::frames::{FrameReader, FrameWriter, split};
use crate::transport::stream_kind::{Greeting, StreamKind, check_header_version};
use crate::transport::tls::{DialError, Dialer};

/// Maximum time to connect.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of HTTP/2 pings; a ping may be unanswered for twice as long.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of frames that the connection hasn't taken yet.
const MAX_QUEUED_FRAMES: usize = 2;

/// Sets the bounds of a connection whose caller checks by itself whether it is alive.
pub fn without_keep_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
}

/// Sets the bounds of a connection, which is closed when the node answers no pings.
pub fn with_keep_alive(endpoint: Endpoint) -> Endpoint {
    without_keep_alive(endpoint)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(2 * KEEP_ALIVE_INTERVAL)
        .keep_alive_while_idle(true)
}

/// Sending half of a stream.
pub(super) trait CallSink: Send {
    /// True if the connection task has to probe the node: the transport sends no pings.
    const NEEDS_PROBES: bool;

    /// Waits until earlier frames were written, and a frame can be taken. Cancel safe.
    fn ready(&mut self) -> impl Future<Output = Result<(), Status>> + Send;

    /// Takes a frame. To be called only after `ready`.
    fn start_send(&mut self, frame: pb::CallFrame) -> Result<(), Status>;

    /// Writes the frames that were taken, and ends the sending direction.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Receiving half of a stream.
pub(super) trait ReplyStream: Send {
    /// Returns the next frame; `None` at the end. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<pb::ReplyFrame>, Status>> + Send;
}

/// Opens a gRPC stream.
pub(super) async fn open_grpc(
    dialer: &Dialer,
    address: &str,
    (greeting, kind): (&Greeting, StreamKind),
    limit: usize,
) -> Result<(mpsc::Sender<pb::CallFrame>, Streaming<pb::ReplyFrame>), Status> {
    let dialer = match kind {
        StreamKind::Raft => dialer.for_raft(),
        StreamKind::Forwarded => dialer.for_forwarded(),
        StreamKind::Geo => dialer.clone(),
    };
    let channel = dialer.channel(address, with_keep_alive).await?;
    let (frames, stream) = mpsc::channel(MAX_QUEUED_FRAMES);
    let mut request = Request::new(ReceiverStream::new(stream));
    greeting.write_metadata(kind, request.metadata_mut())?;
    let mut client = NodeClient::new(channel)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit);
    if kind == StreamKind::Geo {
        client = client.send_compressed(CompressionEncoding::Zstd);
    }
    let replies = client.exchange(request).await?;
    Ok((frames, replies.into_inner()))
}

impl CallSink for mpsc::Sender<pb::CallFrame> {
    const NEEDS_PROBES: bool = false;

    async fn ready(&mut self) -> Result<(), Status> {
        let permit = self.reserve().await;
        permit.map(drop).map_err(|_| closed_status())
    }

    fn start_send(&mut self, frame: pb::CallFrame) -> Result<(), Status> {
        self.try_send(frame).map_err(|_| closed_status())
    }

    async fn close(self) {}
}

impl ReplyStream for Streaming<pb::ReplyFrame> {
    async fn next(&mut self) -> Result<Option<pb::ReplyFrame>, Status> {
        self.message().await
    }
}

/// Opens a stream of plain frames, for users' requests.
pub(super) async fn open_frames(
    dialer: &Dialer,
    address: &str,
    greeting: &Greeting,
    limit: usize,
) -> Result<(FrameWriter, FrameReader), Status> {
    let dialer = dialer.for_users();
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, dialer.connect(address)).await;
    let timed_out =
        |_| Status::deadline_exceeded(format!("connect: no connection within {CONNECT_TIMEOUT:?}"));
    let stream = connected
        .map_err(timed_out)?
        .map_err(|error| match &error {
            DialError::WrongPeer { .. } => Status::unauthenticated(error.to_string()),
            DialError::InvalidAddress(_) => Status::invalid_argument(error.to_string()),
            DialError::Connect { .. } => Status::unavailable(error.to_string()),
        })?;
    let (mut replies, mut calls) = split(stream);
    let greeted = calls.send(&greeting.to_user_greeting()).await;
    greeted.map_err(io_status)?;
    let welcome = replies.next::<pb::UserWelcome>().await.map_err(io_status)?;
    let pb::UserWelcome {
        code,
        message,
        headers,
    } = welcome.ok_or_else(closed_status)?;
    match i32::try_from(code).map_or(Code::Unknown, Code::from) {
        Code::Ok => {
            check_header_version(headers)?;
            calls.set_max_frame_bytes(limit);
            replies.set_max_frame_bytes(limit);
            Ok((calls, replies))
        }
        code => Err(Status::new(code, message)),
    }
}

impl CallSink for FrameWriter {
    const NEEDS_PROBES: bool = true;

    async fn ready(&mut self) -> Result<(), Status> {
        self.flush().await.map_err(io_status)
    }

    fn start_send(&mut self, frame: pb::CallFrame) -> Result<(), Status> {
        FrameWriter::put(self, &frame).map_err(io_status)
    }

    async fn close(self) {
        // If this fails, the other end notices by itself.
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, FrameWriter::shutdown(self)).await;
    }
}

impl ReplyStream for FrameReader {
    async fn next(&mut self) -> Result<Option<pb::ReplyFrame>, Status> {
        FrameReader::next(self).await.map_err(io_status)
    }
}

fn closed_status() -> Status {
    Status::unavailable("the connection ended")
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn io_status(error: io::Error) -> Status {
    Status::unavailable(error.to_string())
}
