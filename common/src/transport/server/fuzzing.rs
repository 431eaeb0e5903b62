//! Fuzz target of a router's stream: each call is answered once, whatever it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Builder;
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;

use super::exchange::{CallReader, Disconnected, ReplyWriter, StreamHandler, exchange};
use crate::transport::frames::FrameCodec;
use crate::transport::headers::read_headers;

/// Maximum size of a frame, as between router and node.
const MAX_FRAME_BYTES: usize = 32 << 20;

/// Serves a stream of frames. After as many of them as the first byte says, the node drains.
pub fn router_stream(data: &[u8]) {
    let Some((frames_until_drain, bytes)) = data.split_first() else {
        return;
    };
    let Ok(runtime) = Builder::new_current_thread().build() else {
        return;
    };
    let (history, drain) = (Arc::<Mutex<History>>::default(), CancellationToken::new());
    let calls = FrameSource {
        buffer: BytesMut::from(bytes),
        frames_until_drain: *frames_until_drain,
        drain: drain.clone(),
        history: history.clone(),
    };
    let replies = ReplyRecorder(history.clone());
    runtime.block_on(exchange(EchoHandler, calls, replies, drain));
    let history = std::mem::take(&mut *history.lock());
    history.check();
}

/// Calls and replies of a stream.
#[derive(Debug, Default)]
struct History {
    /// IDs of the calls.
    calls: Vec<u64>,
    /// Number of frames without calls: probes.
    probe_count: usize,
    /// True if the router has sent something else than frames of calls.
    is_disconnected: bool,
    /// Frames of replies.
    replies: Vec<pb::ReplyFrame>,
}

impl History {
    fn check(mut self) {
        let drain_count = self.replies.iter().filter(|frame| frame.draining).count();
        assert!(drain_count <= 1, "the drain was announced twice");
        let replies = self.replies.iter().flat_map(|frame| &frame.replies);
        assert!(replies.clone().all(|reply| reply.body.is_some()));
        let mut answered: Vec<u64> = replies.map(|reply| reply.id).collect();
        answered.sort_unstable();
        self.calls.sort_unstable();
        let empty = self.replies.iter().filter(|frame| frame.replies.is_empty());
        let probe_reply_count = empty.count() - drain_count;
        if self.is_disconnected {
            assert!(answered.len() <= self.calls.len());
            assert!(
                answered
                    .iter()
                    .all(|id| self.calls.binary_search(id).is_ok())
            );
            assert!(probe_reply_count <= self.probe_count);
        } else {
            assert_eq!(answered, self.calls);
            assert_eq!(probe_reply_count, self.probe_count);
        }
    }
}

/// Reader of calls from bytes that have all come.
struct FrameSource {
    buffer: BytesMut,
    frames_until_drain: u8,
    drain: CancellationToken,
    history: Arc<Mutex<History>>,
}

impl CallReader for FrameSource {
    async fn next(&mut self) -> Result<Option<pb::CallFrame>, Disconnected> {
        match self.frames_until_drain.checked_sub(1) {
            Some(left) => self.frames_until_drain = left,
            None => self.drain.cancel(),
        }
        let mut codec = FrameCodec {
            max_frame_bytes: MAX_FRAME_BYTES,
        };
        let frame = codec.decode(&mut self.buffer);
        let mut history = self.history.lock();
        match frame.map(|frame| frame.map(pb::CallFrame::decode)) {
            Ok(None) => Ok(None),
            Ok(Some(Ok(frame))) => {
                history.probe_count += usize::from(frame.calls.is_empty());
                history.calls.extend(frame.calls.iter().map(|call| call.id));
                Ok(Some(frame))
            }
            Ok(Some(Err(_))) | Err(_) => {
                history.is_disconnected = true;
                Err(Disconnected)
            }
        }
    }
}

/// Writer that records replies.
struct ReplyRecorder(Arc<Mutex<History>>);

impl ReplyWriter for ReplyRecorder {
    async fn send(&mut self, frame: pb::ReplyFrame) -> Result<(), Disconnected> {
        self.0.lock().replies.push(frame);
        Ok(())
    }

    async fn closed(&self) {
        std::future::pending().await
    }
}

/// Handler of users' requests, like that of a node, which answers with the request. Calls with an
/// odd ID aren't ready at once.
struct EchoHandler;

impl StreamHandler for EchoHandler {
    type Output = pb::UserReply;

    fn start(
        &self,
        id: u64,
        body: call::Body,
        _timeout: Duration,
    ) -> Option<BoxFuture<'static, pb::UserReply>> {
        let call::Body::User(request) = body else {
            return None;
        };
        let status = if read_headers(&request.headers, 0).is_ok() {
            200
        } else {
            400
        };
        let reply = pb::UserReply {
            status,
            headers: request.headers,
            body: request.body,
            authoritative: false,
        };
        Some(Box::pin(async move {
            if id % 2 == 1 {
                tokio::task::yield_now().await;
            }
            reply
        }))
    }

    fn reply_body(output: pb::UserReply) -> reply::Body {
        reply::Body::User(output)
    }
}
