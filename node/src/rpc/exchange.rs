//! The serving end of a stream of calls.
//!
//! One task handles all calls of a stream: a reply that is ready at once costs no task and no
//! message of its own. When too many calls are in flight the task stops reading, and the caller's
//! queue fills up.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::rpc::{StreamKind, timeout_from_millis};
use cloudkv_proto::v1::{self as pb, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::server::RpcHandler;
use crate::raft::NodeId;

/// Maximum number of calls of one stream in flight.
const MAX_INFLIGHT_CALLS: usize = 16_384;
/// Maximum number of replies in one frame.
const MAX_FRAME_REPLIES: usize = 512;
/// Size of a frame's replies after which another frame is begun, in bytes.
const FRAME_TARGET_BYTES: usize = 1 << 20;

/// Error of a stream whose caller has disconnected.
pub(super) struct Disconnected;

/// The receiving half of a stream of calls.
pub(super) trait CallReader: Send {
    /// Receives the next frame; `None` at the end. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<pb::CallFrame>, Disconnected>> + Send;
}

/// The sending half of a stream of calls.
pub(super) trait ReplyWriter: Send {
    /// Sends a frame, or queues it.
    fn send(
        &mut self,
        frame: pb::ReplyFrame,
    ) -> impl Future<Output = Result<(), Disconnected>> + Send;

    /// Waits until the caller has disconnected, if that can be detected here.
    fn closed(&self) -> impl Future<Output = ()> + Send;
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

type InflightCalls = FuturesUnordered<BoxFuture<'static, pb::Reply>>;

/// Handles the calls of one stream until it ends. When `drain` is cancelled it tells the caller so,
/// answers all calls that the caller sent before it learned of that, and ends: no call is lost.
pub(super) async fn exchange(
    (from, kind): (NodeId, StreamKind),
    handler: Arc<dyn RpcHandler>,
    mut calls: impl CallReader,
    mut replies: impl ReplyWriter,
    drain: CancellationToken,
) {
    let mut inflight = InflightCalls::new();
    let mut ready = Vec::new();
    let (mut open, mut draining) = (true, false);
    // Created once, not for each frame.
    let mut drain_started = pin!(drain.cancelled());
    while open || !inflight.is_empty() || !ready.is_empty() {
        if ready.is_empty() {
            tokio::select! {
                Some(reply) = inflight.next() => {
                    ready.push(reply);
                    // Replies that the same log entry completes are sent in one frame.
                    tokio::task::yield_now().await;
                }
                frame = calls.next(), if open && inflight.len() < MAX_INFLIGHT_CALLS => match frame {
                    // An empty frame asks for a sign of life.
                    Ok(Some(frame)) if frame.calls.is_empty() => {
                        if replies.send(pb::ReplyFrame::default()).await.is_err() {
                            return;
                        }
                    }
                    Ok(Some(frame)) => {
                        start_calls((from, kind), &handler, frame, &inflight, &mut ready);
                    }
                    Ok(None) => open = false,
                    Err(Disconnected) => return,
                },
                () = &mut drain_started, if !draining => {
                    draining = true;
                    let frame = pb::ReplyFrame { draining, ..Default::default() };
                    if replies.send(frame).await.is_err() {
                        return;
                    }
                }
                () = replies.closed() => return,
            }
        } else {
            // Replies that are ready by now are sent in the same frame.
            while let Some(Some(reply)) = inflight.next().now_or_never() {
                ready.push(reply);
                if ready.len() >= MAX_FRAME_REPLIES {
                    break;
                }
            }
            for frame in pack_frames(&mut ready) {
                if replies.send(frame).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Starts all calls of a frame, in their order; replies that are ready at once go to `ready`.
fn start_calls(
    (from, kind): (NodeId, StreamKind),
    handler: &Arc<dyn RpcHandler>,
    frame: pb::CallFrame,
    inflight: &InflightCalls,
    ready: &mut Vec<pb::Reply>,
) {
    for call in frame.calls {
        let id = call.id;
        let Some(body) = call.body else {
            ready.push(pb::Reply {
                id,
                body: Some(unknown_call()),
            });
            continue;
        };
        let timeout: Duration = timeout_from_millis(call.timeout_ms);
        // Users' requests are accepted on their own stream only, and nothing else is there.
        match (kind, body) {
            (StreamKind::Users, pb::call::Body::User(request)) => {
                start_call(
                    id,
                    handler.handle_user_request(request, id),
                    reply::Body::User,
                    inflight,
                    ready,
                );
            }
            (StreamKind::Users, _) | (_, pb::call::Body::User(_)) => ready.push(pb::Reply {
                id,
                body: Some(unknown_call()),
            }),
            (StreamKind::Raft | StreamKind::Forwarded | StreamKind::Geo, body) => {
                let pending = handler.handle_call(from, body, timeout);
                start_call(id, pending, |body| body, inflight, ready);
            }
        }
    }
}

/// Starts a call: its reply goes to `ready` if it is ready at once, else the call is in flight.
fn start_call<T: Send + 'static>(
    id: u64,
    mut pending: BoxFuture<'static, T>,
    to_body: impl FnOnce(T) -> reply::Body + Send + 'static,
    inflight: &InflightCalls,
    ready: &mut Vec<pb::Reply>,
) {
    let to_reply = move |output| pb::Reply {
        id,
        body: Some(to_body(output)),
    };
    match (&mut pending).now_or_never() {
        Some(output) => ready.push(to_reply(output)),
        None => inflight.push(Box::pin(pending.map(to_reply))),
    }
}

fn unknown_call() -> reply::Body {
    reply::Body::Refused(pb::Refused {
        reason: pb::refused::Reason::Failed.into(),
        message: "this version of cloudkv-node does not know the call: upgrade it".to_owned(),
        leader: 0,
    })
}

/// Packs all replies into as few frames as their sizes allow.
fn pack_frames(ready: &mut Vec<pb::Reply>) -> Vec<pb::ReplyFrame> {
    let mut frames = Vec::with_capacity(1);
    let mut frame = pb::ReplyFrame::default();
    let mut bytes = 0;
    for reply in ready.drain(..) {
        bytes += reply_bytes(&reply);
        frame.replies.push(reply);
        if bytes >= FRAME_TARGET_BYTES {
            bytes = 0;
            frames.push(std::mem::take(&mut frame));
        }
    }
    if !frame.replies.is_empty() {
        frames.push(frame);
    }
    frames
}

/// Returns the approximate size of a reply in bytes. Only values and listings are large.
fn reply_bytes(reply: &pb::Reply) -> usize {
    use pb::reply::Body;
    match &reply.body {
        Some(Body::Get(get)) => get.record.as_ref().map_or(0, |record| record.value.len()),
        Some(Body::User(user)) => user.headers.len() + user.body.len(),
        Some(Body::Page(page)) => page.keys.iter().map(|key| key.key.len() + 40).sum(),
        Some(_) | None => 32,
    }
}
