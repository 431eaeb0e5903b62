//! Calls and replies of one stream.
//!
//! One task handles all calls of a stream: a reply that is ready at once costs no task and no
//! message of its own. When too many calls are in flight the task stops reading, and the caller's
//! queue fills up.

use std::pin::pin;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

/// Maximum number of calls of one stream in flight.
const MAX_INFLIGHT_CALLS: usize = 16_384;
/// Maximum number of replies in one frame.
const MAX_FRAME_REPLIES: usize = 512;
/// Size of a frame's replies after which another frame is begun, in bytes.
const FRAME_TARGET_BYTES: usize = 1 << 20;

/// Handler of the calls of one stream.
pub trait StreamHandler: Send + Sync + 'static {
    /// Result of a call.
    type Output: Send + 'static;

    /// Starts a call, which waits for `timeout` at most; `id` is unique within the stream. `None`
    /// if the stream isn't for such calls. Calls are started in their order: each is polled once
    /// before the next is started.
    fn start(
        &self,
        id: u64,
        body: call::Body,
        timeout: Duration,
    ) -> Option<BoxFuture<'static, Self::Output>>;

    /// Converts the result of a call to its reply.
    fn reply_body(output: Self::Output) -> reply::Body;
}

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

type InflightCalls = FuturesUnordered<BoxFuture<'static, pb::Reply>>;

/// Handles the calls of one stream until it ends. When `drain` is cancelled it tells the caller so,
/// answers all calls that the caller sent before it learned of that, and ends: no call is lost.
pub(super) async fn exchange(
    handler: impl StreamHandler,
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
                next = calls.next(), if open && inflight.len() < MAX_INFLIGHT_CALLS => match next {
                    // An empty frame asks for a sign of life.
                    Ok(Some(frame)) if frame.calls.is_empty() => {
                        if replies.send(pb::ReplyFrame::default()).await.is_err() {
                            return;
                        }
                    }
                    Ok(Some(frame)) => start_calls(&handler, frame, &inflight, &mut ready),
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
fn start_calls<H: StreamHandler>(
    handler: &H,
    frame: pb::CallFrame,
    inflight: &InflightCalls,
    ready: &mut Vec<pb::Reply>,
) {
    for call in frame.calls {
        let id = call.id;
        let to_reply = move |body| pb::Reply {
            id,
            body: Some(body),
        };
        let timeout = Duration::from_millis(u64::from(call.timeout_ms));
        // A call of a kind that this version doesn't know has no body.
        let started = call.body.and_then(|body| handler.start(id, body, timeout));
        let Some(mut pending) = started else {
            ready.push(to_reply(unknown_call()));
            continue;
        };
        match (&mut pending).now_or_never() {
            Some(output) => ready.push(to_reply(H::reply_body(output))),
            None => {
                let reply = pending.map(move |output| to_reply(H::reply_body(output)));
                inflight.push(Box::pin(reply));
            }
        }
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
        Some(Body::Page(page)) => page.keys.iter().map(listed_key_bytes).sum(),
        Some(_) | None => 32,
    }
}

fn listed_key_bytes(key: &pb::ListedKey) -> usize {
    let fields = [&key.key, &key.content_type, &key.metadata, &key.value];
    fields.iter().map(|field| field.len()).sum::<usize>() + 40
}
