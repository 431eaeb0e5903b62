//! Connection task of an RPC client: one connection, one stream.
//!
//! Queued calls share a frame: before one is built, all tasks that are ready get to run. So frames
//! hold many calls when there are many callers, and no call waits when there are few.
//!
//! A call whose node can't be reached fails at once, unsent. When the stream breaks, calls that
//! were sent are lost: their outcome is unknown.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status};

use super::call::QueuedCall;
use super::codec::{CONNECT_TIMEOUT, CallSink, ReplyStream, open_frames, open_grpc};
use super::pending_calls::PendingCalls;
use super::settings::RpcClientSettings;
use crate::transport::stream_kind::{Greeting, StreamProtocol, answering_cluster};
use crate::transport::tls::{Dialer, in_words};

/// Minimum and maximum delay between attempts to connect.
const MIN_RETRY_BACKOFF: Duration = Duration::from_millis(20);
const MAX_RETRY_BACKOFF: Duration = Duration::from_millis(500);
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

/// Number of sweeps since the last frame in either direction.
#[derive(Debug, Default)]
struct IdleSweeps {
    receives: u32,
    sends: u32,
}

/// Endpoint of a connection, and the means to reach it.
pub(super) struct ConnectionTarget {
    pub dialer: Dialer,
    pub greeting: Greeting,
    pub protocol: StreamProtocol,
    pub address: watch::Receiver<String>,
}

/// Reason why the last connection ended, or couldn't be opened.
#[derive(Clone, Debug, Default)]
pub(super) struct LastFailure(Arc<Mutex<Option<String>>>);

impl LastFailure {
    /// Returns the reason; `None` before the first failure.
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn set(&self, ended: &Status) {
        let reason = match answering_cluster(ended) {
            Some(cluster) => format!("another cluster answers at its address: {cluster}"),
            None => in_words(ended.message().trim_start_matches("connect: ")).to_owned(),
        };
        *self.0.lock() = Some(reason);
    }
}

/// Task that keeps the connection of an RPC client.
pub(super) struct ConnectionTask {
    target: ConnectionTarget,
    /// Maximum bytes of a message.
    max_message_bytes: usize,
    calls: mpsc::Receiver<QueuedCall>,
    connected: watch::Sender<bool>,
    last_failure: LastFailure,
    pending: PendingCalls,
    /// Set once it was logged that the node has another version.
    has_logged_version: bool,
}

impl ConnectionTask {
    pub(super) fn new(
        target: ConnectionTarget,
        settings: RpcClientSettings,
        calls: mpsc::Receiver<QueuedCall>,
        connected: watch::Sender<bool>,
        last_failure: LastFailure,
    ) -> Self {
        Self {
            target,
            max_message_bytes: settings.max_message_bytes,
            calls,
            connected,
            last_failure,
            pending: PendingCalls::new(settings.max_calls),
            has_logged_version: false,
        }
    }

    /// Keeps a connection until the client is dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = MIN_RETRY_BACKOFF;
        loop {
            let ended = self.run_connection(&mut backoff).await;
            self.last_failure.set(&ended);
            self.connected.send_replace(false);
            self.pending.clear();
            let number = u64::from(self.target.greeting.to);
            let protocol = self.target.protocol;
            tracing::debug!(
                node = self.address(),
                number,
                ?protocol,
                error = %ended,
                "connection to node ended"
            );
            if let Some(refused) = self.log_refusal(&ended) {
                backoff = refused;
            }
            if !self.back_off(backoff).await {
                return;
            }
            backoff = (2 * backoff).min(MAX_RETRY_BACKOFF);
        }
    }

    /// Logs the end of a connection that one of the nodes refuses, and returns the time to back off
    /// then.
    fn log_refusal(&mut self, ended: &Status) -> Option<Duration> {
        let (node, reason) = (self.address(), ended.message());
        match ended.code() {
            Code::PermissionDenied | Code::FailedPrecondition => {
                match answering_cluster(ended) {
                    Some(cluster) => tracing::warn!(
                        node,
                        cluster,
                        "another cluster answers at its address, trying again: a node was started \
                         there with an empty data directory and without join"
                    ),
                    None => tracing::warn!(node, reason, "node refuses this one, trying again"),
                }
                Some(MAX_RETRY_BACKOFF)
            }
            Code::Unauthenticated => {
                tracing::warn!(
                    node,
                    reason,
                    "this node refuses the other one, trying again"
                );
                Some(MAX_RETRY_BACKOFF)
            }
            Code::Unimplemented if self.target.protocol == StreamProtocol::UserFrames => {
                // While one of them is upgraded, or for long if that was forgotten.
                if !std::mem::replace(&mut self.has_logged_version, true) {
                    tracing::warn!(
                        node,
                        reason,
                        "node has another version, sending requests to it as HTTP"
                    );
                }
                Some(VERSION_MISMATCH_BACKOFF)
            }
            _ => None,
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
                    Some(call) => call.fail_unsent(),
                    None => return false,
                },
            }
        }
    }

    /// Runs one connection to its end, and returns the reason of the end.
    async fn run_connection(&mut self, backoff: &mut Duration) -> Status {
        let address = self.target.address.borrow_and_update().clone();
        let limit = self.max_message_bytes;
        let ConnectionTarget {
            dialer,
            greeting,
            protocol,
            ..
        } = &self.target;
        match *protocol {
            StreamProtocol::Grpc(kind) => {
                let opened = open_grpc(dialer, &address, (greeting, kind), limit);
                match with_connect_timeout(opened).await {
                    Ok((calls, replies)) => self.exchange(calls, replies, backoff).await,
                    Err(status) => status,
                }
            }
            StreamProtocol::UserFrames => {
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
        *backoff = MIN_RETRY_BACKOFF;
        self.has_logged_version = false;
        self.connected.send_replace(true);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        // Missed ticks, caught up all at once, would leave the node no time to answer.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A receiver of its own, so that the future is created once and not for each frame.
        let mut address = self.target.address.clone();
        let mut address_changed = pin!(address.changed());
        let (mut first, mut is_sending) = (None, false);
        let mut idle = IdleSweeps::default();
        loop {
            let may_take_call = first.is_none() && self.pending.has_capacity();
            tokio::select! {
                frame = replies.next() => match frame {
                    Ok(Some(frame)) => {
                        idle.receives = 0;
                        let is_draining = frame.draining;
                        self.pending.dispatch(frame);
                        if is_draining {
                            first.into_iter().for_each(QueuedCall::fail_unsent);
                            break;
                        }
                    }
                    Ok(None) => return Status::unavailable("the node ended the stream"),
                    Err(status) => return status,
                },
                call = self.calls.recv(), if may_take_call => match call {
                    Some(call) => {
                        first = Some(call);
                        // Lets other callers queue their calls, which share the frame.
                        tokio::task::yield_now().await;
                    }
                    None => return Status::cancelled("the client was dropped"),
                },
                ready = calls.ready(), if is_sending || first.is_some() => {
                    is_sending = first.is_some();
                    if is_sending {
                        idle.sends = 0;
                    }
                    let sent = ready.and_then(|()| match first.take() {
                        Some(first) => {
                            calls.start_send(self.pending.build_frame(first, &mut self.calls))
                        }
                        None => Ok(()),
                    });
                    if let Err(status) = sent {
                        return status;
                    }
                }
                _ = sweep.tick() => match self.sweep(&mut calls, &mut idle, is_sending) {
                    Ok(has_frame) => is_sending = has_frame,
                    Err(status) => return status,
                },
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

    /// Removes abandoned calls where the transport detects silence, or else probes a silent node.
    /// Returns whether a frame is being sent.
    ///
    /// # Errors
    /// Fails if the connection is dead.
    fn sweep<C: CallSink>(
        &mut self,
        calls: &mut C,
        idle: &mut IdleSweeps,
        is_sending: bool,
    ) -> Result<bool, Status> {
        idle.receives += 1;
        idle.sends += 1;
        if !C::NEEDS_PROBES {
            self.pending.remove_abandoned();
            return Ok(is_sending);
        }
        // Calls stay pending until they are answered: so the node never works on more of them than
        // may be pending here, beyond which it would stop reading.
        if idle.receives >= DEAD_AFTER_SWEEPS {
            return Err(Status::unavailable("the node doesn't answer"));
        }
        if is_sending || idle.receives.max(idle.sends) < PROBE_AFTER_SWEEPS {
            return Ok(is_sending);
        }
        calls.start_send(pb::CallFrame::default())?;
        idle.sends = 0;
        Ok(true)
    }

    /// Waits for the replies of a node that is about to stop; new calls fail unsent.
    async fn drain(&mut self, mut replies: impl ReplyStream) -> Status {
        self.connected.send_replace(false);
        loop {
            tokio::select! {
                frame = replies.next() => match frame {
                    Ok(Some(frame)) => self.pending.dispatch(frame),
                    Ok(None) => return Status::unavailable("the node has drained"),
                    Err(status) => return status,
                },
                call = self.calls.recv() => match call {
                    Some(call) => call.fail_unsent(),
                    None => return Status::cancelled("the client was dropped"),
                },
            }
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
