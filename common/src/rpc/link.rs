//! The calling end of a lane: one connection, one stream, a bounded queue.
//!
//! Calls that wait go together in one frame: before one is made, all tasks that are ready have their
//! turn. So frames hold many calls when there are many callers, and none waits when there are few.
//!
//! A call whose node can't be reached fails at once, unsent; calls that were sent when the stream
//! breaks are lost: their fate is unknown.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloudkv_proto::tls::Dialer;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_client::NodeClient;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use super::call::{CallError, Outgoing, PendingReply, millis_left};
use super::lane::{Greeting, Lane};

/// Calls in one frame.
const FRAME_CALLS: usize = 512;
/// Bytes of calls in one frame, about; a larger call goes alone.
const FRAME_BYTES: usize = 1 << 20;
/// Frames handed to the connection and not taken yet.
const FRAMES_AHEAD: usize = 2;
/// Time to connect, and time for the other side to greet back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between tries to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// A connection on which nothing comes back for this long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How often calls are forgotten whose callers have given up.
const SWEEP: Duration = Duration::from_millis(500);
/// What a call takes in queues beside its contents, in bytes.
const CALL_OVERHEAD: usize = 128;

/// Bounds of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Calls that may wait for a reply.
    pub calls: usize,
    /// Bytes of calls that may wait to be sent.
    pub queue_bytes: usize,
    /// Bytes of a single message, the same on both sides.
    pub message_bytes: usize,
}

/// Bytes that a waiting call holds of its link's queue.
pub(super) struct Held {
    left: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    fn take(left: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let less = |left: usize| left.checked_sub(bytes);
        left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok()?;
        let left = left.clone();
        Some(Self { left, bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// A link to one node on one lane.
pub struct Link {
    queue: mpsc::Sender<Outgoing>,
    left: Arc<AtomicUsize>,
    connected: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Link {
    /// Starts a link on `runtime`. `address` may change while it runs.
    pub fn start(
        runtime: &Handle,
        dialer: Dialer,
        greeting: Greeting,
        lane: Lane,
        address: watch::Receiver<String>,
        settings: LinkSettings,
    ) -> Self {
        let (queue, calls) = mpsc::channel(settings.calls);
        let (up, connected) = watch::channel(false);
        let stop = CancellationToken::new();
        let line = Line {
            dialer,
            greeting,
            lane,
            address,
            settings,
            calls,
            up,
            waiting: HashMap::new(),
            next_id: 0,
        };
        runtime.spawn(stop.clone().run_until_cancelled_owned(line.run()));
        Self {
            queue,
            left: Arc::new(AtomicUsize::new(settings.queue_bytes)),
            connected,
            stop,
        }
    }

    /// Queues a call. Calls of one caller are sent in the order in which they were queued.
    pub fn call(&self, body: pb::call::Body, timeout: Duration) -> Result<PendingReply, CallError> {
        if !self.is_connected() {
            return Err(CallError::Unsent);
        }
        let bytes = Held::take(&self.left, body.encoded_len() + CALL_OVERHEAD);
        let bytes = bytes.ok_or(CallError::Busy)?;
        let (answer, reply) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let (pending, fate) = PendingReply::new(deadline, reply);
        let outgoing = Outgoing {
            body,
            fate,
            deadline,
            bytes,
            answer,
        };
        match self.queue.try_send(outgoing) {
            Ok(()) => Ok(pending),
            Err(mpsc::error::TrySendError::Full(_)) => Err(CallError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CallError::Unsent),
        }
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Whether there is a connection; changes when it comes or goes.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Sets all bounds of a connection.
pub fn bounded(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(2 * KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

type Answer = oneshot::Sender<Result<pb::reply::Body, CallError>>;

/// What a link's task works with.
struct Line {
    dialer: Dialer,
    greeting: Greeting,
    lane: Lane,
    address: watch::Receiver<String>,
    settings: LinkSettings,
    calls: mpsc::Receiver<Outgoing>,
    up: watch::Sender<bool>,
    waiting: HashMap<u64, Answer>,
    next_id: u64,
}

impl Line {
    async fn run(mut self) {
        let mut pause = RETRY.0;
        loop {
            let ended = match self.open().await {
                Ok((frames, replies)) => {
                    pause = RETRY.0;
                    self.up.send_replace(true);
                    let ended = self.pump(frames, replies).await;
                    self.up.send_replace(false);
                    ended
                }
                Err(status) => status,
            };
            self.waiting.clear();
            let (to, lane) = (self.greeting.to, self.lane);
            tracing::debug!(to, ?lane, %ended, "link to a node ended");
            match ended.code() {
                Code::PermissionDenied | Code::FailedPrecondition => {
                    tracing::warn!(to, reason = ended.message(), "a node refuses this one");
                    pause = RETRY.1;
                }
                Code::Unauthenticated => {
                    tracing::warn!(to, reason = ended.message(), "this node refuses another");
                    pause = RETRY.1;
                }
                _ => {}
            }
            if !self.rest(pause).await {
                return;
            }
            pause = (2 * pause).min(RETRY.1);
        }
    }

    /// Waits before the next try; what comes meanwhile fails. `false`: nobody calls any more.
    async fn rest(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                changed = self.address.changed() => return changed.is_ok(),
                call = self.calls.recv() => match call {
                    Some(call) => fail(call),
                    None => return false,
                },
            }
        }
    }

    async fn open(
        &mut self,
    ) -> Result<(mpsc::Sender<pb::CallFrame>, Streaming<pb::ReplyFrame>), Status> {
        let address = self.address.borrow_and_update().clone();
        let open = async {
            let channel = self.dialer.channel(&address, bounded).await?;
            let (frames, stream) = mpsc::channel(FRAMES_AHEAD);
            let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(stream));
            self.greeting.write(self.lane, request.metadata_mut())?;
            let limit = self.settings.message_bytes;
            let mut client = NodeClient::new(channel)
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit);
            if self.lane == Lane::Geo {
                client = client.send_compressed(CompressionEncoding::Zstd);
            }
            let replies = match self.lane {
                Lane::Raft | Lane::Keys | Lane::Geo => client.exchange(request).await?,
                Lane::Users => client.serve(request).await?,
            };
            let replies = replies.into_inner();
            Ok((frames, replies))
        };
        tokio::time::timeout(2 * CONNECT_TIMEOUT, open)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no greeting came back")))
    }

    /// Sends calls and hands out replies until the stream ends; tells why it did.
    async fn pump(
        &mut self,
        frames: mpsc::Sender<pb::CallFrame>,
        mut replies: Streaming<pb::ReplyFrame>,
    ) -> Status {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut first = None;
        loop {
            tokio::select! {
                frame = replies.message() => match frame {
                    Ok(Some(frame)) => {
                        let leaving = frame.leaving;
                        self.hand_out(frame);
                        if leaving {
                            first.into_iter().for_each(fail);
                            break;
                        }
                    }
                    Ok(None) => return Status::unavailable("the node ended the stream"),
                    Err(status) => return status,
                },
                call = self.calls.recv(), if first.is_none() && self.has_room() => match call {
                    Some(call) => {
                        first = Some(call);
                        // Those who are about to call go first, and with it.
                        tokio::task::yield_now().await;
                    }
                    None => return Status::cancelled("nobody calls any more"),
                },
                permit = frames.reserve(), if first.is_some() => {
                    let Ok(permit) = permit else {
                        return Status::unavailable("the connection ended");
                    };
                    if let Some(first) = first.take() {
                        permit.send(self.gather(first));
                    }
                }
                _ = sweep.tick() => self.waiting.retain(|_, answer| !answer.is_closed()),
                changed = self.address.changed() => {
                    let _ = changed;
                    return Status::unavailable("the node has another address now");
                }
            }
        }
        drop(frames);
        self.wind_up(replies).await
    }

    /// The node is about to stop: nothing more is sent to it, and what was sent is answered.
    async fn wind_up(&mut self, mut replies: Streaming<pb::ReplyFrame>) -> Status {
        self.up.send_replace(false);
        loop {
            tokio::select! {
                frame = replies.message() => match frame {
                    Ok(Some(frame)) => self.hand_out(frame),
                    Ok(None) => return Status::unavailable("the node has left"),
                    Err(status) => return status,
                },
                call = self.calls.recv() => match call {
                    Some(call) => fail(call),
                    None => return Status::cancelled("nobody calls any more"),
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < self.settings.calls
    }

    /// All calls that wait, within the bounds of a frame.
    fn gather(&mut self, first: Outgoing) -> pb::CallFrame {
        let mut frame = pb::CallFrame::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(call) = next.take() {
            bytes += call.bytes.bytes;
            if call.fate.send() {
                self.next_id += 1;
                self.waiting.insert(self.next_id, call.answer);
                frame.calls.push(pb::Call {
                    id: self.next_id,
                    timeout_ms: millis_left(call.deadline),
                    body: Some(call.body),
                });
            }
            if frame.calls.len() < FRAME_CALLS && bytes < FRAME_BYTES && self.has_room() {
                next = self.calls.try_recv().ok();
            }
        }
        frame
    }

    fn hand_out(&mut self, frame: pb::ReplyFrame) {
        for reply in frame.replies {
            let Some(answer) = self.waiting.remove(&reply.id) else {
                continue;
            };
            // A reply of a kind that this version doesn't know tells nothing.
            let body = reply.body.ok_or(CallError::Lost);
            // Whoever asked may have given up.
            let _ = answer.send(body);
        }
    }
}

fn fail(call: Outgoing) {
    if call.fate.send() {
        let _ = call.answer.send(Err(CallError::Unsent));
    }
}
