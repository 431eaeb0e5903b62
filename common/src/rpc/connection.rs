//! Connection task of an RPC client: one connection, one stream.
//!
//! Queued calls share a frame: before one is built, all tasks that are ready get to run. So frames
//! hold many calls when there are many callers, and no call waits when there are few.
//!
//! A call whose node can't be reached fails at once, unsent. When the stream breaks, calls that
//! were sent are lost: their outcome is unknown.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use cloudkv_proto::tls::Dialer;
use cloudkv_proto::v1 as pb;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status};

use super::call::{CallError, QueuedCall, millis_left};
use super::client::RpcClientSettings;
use super::codec::{CONNECT_TIMEOUT, CallSink, ReplyStream, open_frames, open_grpc};
use super::stream_kind::{Greeting, StreamKind};

/// Maximum number of calls in one frame.
const MAX_FRAME_CALLS: usize = 512;
/// Approximate maximum of bytes in one frame; a larger call is sent alone.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// Minimum and maximum delay between attempts to connect.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Delay before a node of another version is tried again.
const VERSION_MISMATCH_BACKOFF: Duration = Duration::from_secs(5);
/// Interval of checks for a silent connection and for abandoned calls.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Number of sweeps without a frame received, or sent, after which the node is probed.
const PROBE_AFTER_SWEEPS: u32 = 2;
/// Number of sweeps without a frame received after which the connection is closed.
const DEAD_AFTER_SWEEPS: u32 = 6;
/// Maximum wait for the replies of a node that drains; the node itself waits less long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

type ReplySender = oneshot::Sender<Result<pb::reply::Body, CallError>>;

/// Endpoint of a connection, and the means to reach it.
pub(super) struct ConnectionTarget {
    pub dialer: Dialer,
    pub greeting: Greeting,
    pub kind: StreamKind,
    pub address: watch::Receiver<String>,
}

/// Task that keeps the connection of an RPC client.
pub(super) struct ConnectionTask {
    target: ConnectionTarget,
    settings: RpcClientSettings,
    calls: mpsc::Receiver<QueuedCall>,
    connected: watch::Sender<bool>,
    pending: HashMap<u64, ReplySender>,
    next_id: u64,
    /// Set once it was logged that the node has another version.
    has_logged_version: bool,
}

impl ConnectionTask {
    pub(super) fn new(
        target: ConnectionTarget,
        settings: RpcClientSettings,
        calls: mpsc::Receiver<QueuedCall>,
        connected: watch::Sender<bool>,
    ) -> Self {
        Self {
            target,
            settings,
            calls,
            connected,
            pending: HashMap::new(),
            next_id: 0,
            has_logged_version: false,
        }
    }

    /// Keeps a connection until the client is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = RETRY_BACKOFF.0;
        loop {
            let ended = self.run_connection(&mut backoff).await;
            self.connected.send_replace(false);
            self.pending.clear();
            let (number, kind) = (self.target.greeting.to, self.target.kind);
            tracing::debug!(node = self.address(), number, ?kind, error = %ended, "connection to node ended");
            match ended.code() {
                Code::PermissionDenied | Code::FailedPrecondition => {
                    let (node, reason) = (self.address(), ended.message());
                    tracing::warn!(node, reason, "node refuses this one, trying again");
                    backoff = RETRY_BACKOFF.1;
                }
                Code::Unauthenticated => {
                    let (node, reason) = (self.address(), ended.message());
                    tracing::warn!(
                        node,
                        reason,
                        "this node refuses the other one, trying again"
                    );
                    backoff = RETRY_BACKOFF.1;
                }
                Code::Unimplemented if kind == StreamKind::Users => {
                    // While one of them is upgraded, or for long if that was forgotten.
                    if !std::mem::replace(&mut self.has_logged_version, true) {
                        let (node, reason) = (self.address(), ended.message());
                        tracing::warn!(
                            node,
                            reason,
                            "node has another version, sending requests to it as HTTP"
                        );
                    }
                    backoff = VERSION_MISMATCH_BACKOFF;
                }
                _ => {}
            }
            if !self.back_off(backoff).await {
                return;
            }
            backoff = (2 * backoff).min(RETRY_BACKOFF.1);
        }
    }

    /// Returns the node's current address.
    fn address(&self) -> String {
        self.target.address.borrow().clone()
    }

    /// Waits before the next attempt, or until the address changes; calls fail meanwhile. False if
    /// the client was dropped.
    async fn back_off(&mut self, backoff: Duration) -> bool {
        let until = Instant::now() + backoff;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                changed = self.target.address.changed() => return changed.is_ok(),
                call = self.calls.recv() => match call {
                    Some(call) => fail_unsent(call),
                    None => return false,
                },
            }
        }
    }

    /// Runs one connection to its end, and returns the reason of the end.
    async fn run_connection(&mut self, backoff: &mut Duration) -> Status {
        let address = self.target.address.borrow_and_update().clone();
        let limit = self.settings.max_message_bytes;
        let ConnectionTarget {
            dialer,
            greeting,
            kind,
            ..
        } = &self.target;
        match kind {
            StreamKind::Raft | StreamKind::Forwarded | StreamKind::Geo => {
                let opened = open_grpc(dialer, &address, (greeting, *kind), limit);
                match with_connect_timeout(opened).await {
                    Ok((calls, replies)) => self.exchange(calls, replies, backoff).await,
                    Err(status) => status,
                }
            }
            StreamKind::Users => {
                match with_connect_timeout(open_frames(dialer, &address, greeting, limit)).await {
                    Ok((calls, replies)) => self.exchange(calls, replies, backoff).await,
                    Err(status) => status,
                }
            }
        }
    }

    /// Sends calls and dispatches replies until the stream ends, and returns the reason of the end.
    async fn exchange<C: CallSink>(
        &mut self,
        mut calls: C,
        mut replies: impl ReplyStream,
        backoff: &mut Duration,
    ) -> Status {
        *backoff = RETRY_BACKOFF.0;
        self.has_logged_version = false;
        self.connected.send_replace(true);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        // Missed ticks, caught up all at once, would leave the node no time to answer.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A receiver of its own, so that the future is created once and not for each frame.
        let mut address = self.target.address.clone();
        let mut address_changed = pin!(address.changed());
        let (mut first, mut is_sending) = (None, false);
        let (mut idle_receives, mut idle_sends) = (0, 0);
        loop {
            tokio::select! {
                frame = replies.next() => match frame {
                    Ok(Some(frame)) => {
                        idle_receives = 0;
                        let is_draining = frame.draining;
                        self.dispatch_replies(frame);
                        if is_draining {
                            first.into_iter().for_each(fail_unsent);
                            break;
                        }
                    }
                    Ok(None) => return Status::unavailable("the node ended the stream"),
                    Err(status) => return status,
                },
                call = self.calls.recv(), if first.is_none() && self.has_capacity() => match call {
                    Some(call) => {
                        first = Some(call);
                        // Lets other callers queue their calls, which share the frame.
                        tokio::task::yield_now().await;
                    }
                    None => return Status::cancelled("the client was dropped"),
                },
                ready = calls.ready(), if is_sending || first.is_some() => {
                    if first.is_some() {
                        idle_sends = 0;
                    }
                    is_sending = first.is_some();
                    let sent = ready.and_then(|()| match first.take() {
                        Some(first) => calls.start_send(self.build_frame(first)),
                        None => Ok(()),
                    });
                    if let Err(status) = sent {
                        return status;
                    }
                }
                _ = sweep.tick() => {
                    (idle_receives, idle_sends) = (idle_receives + 1, idle_sends + 1);
                    if !C::NEEDS_PROBES {
                        self.pending.retain(|_, answer| !answer.is_closed());
                        continue;
                    }
                    // Calls stay pending until they are answered: so the node never works on more
                    // of them than may be pending here, beyond which it would stop reading.
                    if idle_receives >= DEAD_AFTER_SWEEPS {
                        return Status::unavailable("the node doesn't answer");
                    }
                    if idle_receives.max(idle_sends) >= PROBE_AFTER_SWEEPS && !is_sending {
                        if let Err(status) = calls.start_send(pb::CallFrame::default()) {
                            return status;
                        }
                        (is_sending, idle_sends) = (true, 0);
                    }
                }
                // An error means that no address will follow: the client was dropped.
                _ = &mut address_changed => {
                    self.target.address.mark_unchanged();
                    return Status::unavailable("the node has another address now");
                }
            }
        }
        let drain = tokio::time::timeout(DRAIN_TIMEOUT, self.drain(replies));
        let (ended, ()) = tokio::join!(drain, calls.close());
        ended.unwrap_or_else(|_| Status::unavailable("the node drained without a reply"))
    }

    /// Waits for the replies of a node that is about to stop; new calls fail unsent.
    async fn drain(&mut self, mut replies: impl ReplyStream) -> Status {
        self.connected.send_replace(false);
        loop {
            tokio::select! {
                frame = replies.next() => match frame {
                    Ok(Some(frame)) => self.dispatch_replies(frame),
                    Ok(None) => return Status::unavailable("the node has drained"),
                    Err(status) => return status,
                },
                call = self.calls.recv() => match call {
                    Some(call) => fail_unsent(call),
                    None => return Status::cancelled("the client was dropped"),
                },
            }
        }
    }

    fn has_capacity(&self) -> bool {
        self.pending.len() < self.settings.max_calls
    }

    /// Builds a frame of the queued calls, within its bounds.
    fn build_frame(&mut self, first: QueuedCall) -> pb::CallFrame {
        let mut frame = pb::CallFrame::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(call) = next.take() {
            bytes += call.permit.bytes();
            if call.state.mark_sent() {
                self.next_id += 1;
                self.pending.insert(self.next_id, call.reply);
                frame.calls.push(pb::Call {
                    id: self.next_id,
                    timeout_ms: millis_left(call.deadline),
                    body: Some(call.body),
                });
            }
            if frame.calls.len() < MAX_FRAME_CALLS && bytes < MAX_FRAME_BYTES && self.has_capacity()
            {
                next = self.calls.try_recv().ok();
            }
        }
        frame
    }

    fn dispatch_replies(&mut self, frame: pb::ReplyFrame) {
        for reply in frame.replies {
            let Some(answer) = self.pending.remove(&reply.id) else {
                continue;
            };
            // A reply of a kind that this version doesn't know counts as none.
            let body = reply.body.ok_or(CallError::Lost);
            // The caller may have given up.
            let _ = answer.send(body);
        }
    }
}

/// Bounds the time to connect and to be greeted back.
async fn with_connect_timeout<T>(
    opened: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::time::timeout(2 * CONNECT_TIMEOUT, opened)
        .await
        .unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(
                "no greeting was received in time",
            ))
        })
}

fn fail_unsent(call: QueuedCall) {
    if call.state.mark_sent() {
        let _ = call.reply.send(Err(CallError::Unsent));
    }
}
