//! The answering end of a lane.
//!
//! All calls of a stream are worked on by one task: an answer that is there at once costs no task
//! and no message of its own. When too many are under way it reads no further, and the caller's
//! queue fills up.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::rpc::{Lane, time_left};
use cloudkv_proto::v1::{self as pb, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::server::Handler;
use crate::raft::NodeId;

/// Calls of one stream that may be under way.
const UNDER_WAY: usize = 16_384;
/// Replies in one frame.
const FRAME_REPLIES: usize = 512;
/// Bytes of replies in one frame, about.
const FRAME_BYTES: usize = 1 << 20;

/// The caller has gone.
pub(super) struct Gone;

/// The calls that come.
pub(super) trait Calls: Send {
    /// The next frame; `None` at the end. May be dropped before it is there, and asked again.
    fn next(&mut self) -> impl Future<Output = Result<Option<pb::CallFrame>, Gone>> + Send;
}

/// The replies that go.
pub(super) trait Replies: Send {
    /// Sends a frame, or at least takes it.
    fn send(&mut self, frame: pb::ReplyFrame) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Ends when the caller has gone, if that shows here.
    fn closed(&self) -> impl Future<Output = ()> + Send;
}

impl Calls for Streaming<pb::CallFrame> {
    async fn next(&mut self) -> Result<Option<pb::CallFrame>, Gone> {
        self.message().await.map_err(|_| Gone)
    }
}

impl Replies for mpsc::Sender<Result<pb::ReplyFrame, Status>> {
    async fn send(&mut self, frame: pb::ReplyFrame) -> Result<(), Gone> {
        mpsc::Sender::send(self, Ok(frame)).await.map_err(|_| Gone)
    }

    async fn closed(&self) {
        mpsc::Sender::closed(self).await;
    }
}

type Running = FuturesUnordered<BoxFuture<'static, pb::Reply>>;

/// Answers the calls of one stream until it ends. When `leave` is cancelled it says so to the
/// caller, answers what the caller has sent until it heard that, and ends: no call is lost.
pub(super) async fn exchange(
    (from, lane): (NodeId, Lane),
    handler: Arc<dyn Handler>,
    mut calls: impl Calls,
    mut replies: impl Replies,
    leave: CancellationToken,
) {
    let mut running = Running::new();
    let mut ready = Vec::new();
    let (mut open, mut leaving) = (true, false);
    // Made once, and not for each frame.
    let mut told_to_leave = pin!(leave.cancelled());
    while open || !running.is_empty() || !ready.is_empty() {
        if ready.is_empty() {
            tokio::select! {
                Some(reply) = running.next() => {
                    ready.push(reply);
                    // Those of the same entry go with it.
                    tokio::task::yield_now().await;
                }
                frame = calls.next(), if open && running.len() < UNDER_WAY => match frame {
                    // It asks whether the node is there.
                    Ok(Some(frame)) if frame.calls.is_empty() => {
                        if replies.send(pb::ReplyFrame::default()).await.is_err() {
                            return;
                        }
                    }
                    Ok(Some(frame)) => {
                        begin((from, lane), &handler, frame, &running, &mut ready);
                    }
                    Ok(None) => open = false,
                    Err(Gone) => return,
                },
                () = &mut told_to_leave, if !leaving => {
                    leaving = true;
                    let frame = pb::ReplyFrame { leaving, ..Default::default() };
                    if replies.send(frame).await.is_err() {
                        return;
                    }
                }
                () = replies.closed() => return,
            }
        } else {
            // What has ended meanwhile goes with it.
            while let Some(Some(reply)) = running.next().now_or_never() {
                ready.push(reply);
                if ready.len() >= FRAME_REPLIES {
                    break;
                }
            }
            for frame in frames(&mut ready) {
                if replies.send(frame).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Begins all calls of a frame, in their order; what is answered at once goes to `ready`.
fn begin(
    (from, lane): (NodeId, Lane),
    handler: &Arc<dyn Handler>,
    frame: pb::CallFrame,
    running: &Running,
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
        let timeout: Duration = time_left(call.timeout_ms);
        // Who may ask in users' place may ask for nothing else, and nobody else may.
        match (lane, body) {
            (Lane::Users, pb::call::Body::User(request)) => {
                start(
                    id,
                    handler.serve(request, id),
                    reply::Body::User,
                    running,
                    ready,
                );
            }
            (Lane::Users, _) | (_, pb::call::Body::User(_)) => ready.push(pb::Reply {
                id,
                body: Some(unknown_call()),
            }),
            (Lane::Raft | Lane::Keys | Lane::Geo, body) => {
                let answer = handler.answer(from, body, timeout);
                start(id, answer, |body| body, running, ready);
            }
        }
    }
}

/// Begins a call: its reply is in `ready` if it is there at once, else it runs on.
fn start<T: Send + 'static>(
    id: u64,
    mut answer: BoxFuture<'static, T>,
    body: impl FnOnce(T) -> reply::Body + Send + 'static,
    running: &Running,
    ready: &mut Vec<pb::Reply>,
) {
    let reply = move |answer| pb::Reply {
        id,
        body: Some(body(answer)),
    };
    match (&mut answer).now_or_never() {
        Some(answer) => ready.push(reply(answer)),
        None => running.push(Box::pin(answer.map(reply))),
    }
}

fn unknown_call() -> reply::Body {
    reply::Body::Refused(pb::Refused {
        reason: pb::refused::Reason::Failed.into(),
        message: "this version of cloudkv-node does not know the call: upgrade it".to_owned(),
        leader: 0,
    })
}

/// All replies, in as few frames as their sizes allow.
fn frames(ready: &mut Vec<pb::Reply>) -> Vec<pb::ReplyFrame> {
    let mut frames = Vec::with_capacity(1);
    let mut frame = pb::ReplyFrame::default();
    let mut bytes = 0;
    for reply in ready.drain(..) {
        bytes += size_of_reply(&reply);
        frame.replies.push(reply);
        if bytes >= FRAME_BYTES {
            bytes = 0;
            frames.push(std::mem::take(&mut frame));
        }
    }
    if !frame.replies.is_empty() {
        frames.push(frame);
    }
    frames
}

/// Only values and listings are large.
fn size_of_reply(reply: &pb::Reply) -> usize {
    use pb::reply::Body;
    match &reply.body {
        Some(Body::Get(get)) => get.record.as_ref().map_or(0, |record| record.value.len()),
        Some(Body::User(user)) => user.headers.len() + user.body.len(),
        Some(Body::Page(page)) => page.keys.iter().map(|key| key.key.len() + 40).sum(),
        Some(_) | None => 32,
    }
}
