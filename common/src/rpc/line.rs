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

use super::call::{CallError, Outgoing, millis_left};
use super::lane::{Greeting, Lane};
use super::link::LinkSettings;
use super::wire::{CONNECT_TIMEOUT, Calls, Replies, over_frames, over_grpc};

/// Maximum number of calls in one frame.
const FRAME_CALLS: usize = 512;
/// Approximate maximum of bytes in one frame; a larger call is sent alone.
const FRAME_BYTES: usize = 1 << 20;
/// Minimum and maximum delay between attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Delay before a node of another version is tried again.
const OTHER_VERSION: Duration = Duration::from_secs(5);
/// Interval of checks for a silent connection and for abandoned calls.
const SWEEP: Duration = Duration::from_millis(500);
/// Number of sweeps without a frame received, or sent, after which the node is probed.
const ASKED_AFTER: u32 = 2;
/// Number of sweeps without a frame received after which the connection is closed.
const GIVEN_UP_AFTER: u32 = 6;
/// Maximum wait for the replies of a node that drains; the node itself waits less long.
const WOUND_UP_WITHIN: Duration = Duration::from_secs(10);

type Answer = oneshot::Sender<Result<pb::reply::Body, CallError>>;

/// Endpoint of a connection, and the means to reach it.
pub(super) struct Ends {
    pub dialer: Dialer,
    pub greeting: Greeting,
    pub lane: Lane,
    pub address: watch::Receiver<String>,
}

/// Task that keeps the connection of an RPC client.
pub(super) struct Line {
    ends: Ends,
    settings: LinkSettings,
    calls: mpsc::Receiver<Outgoing>,
    up: watch::Sender<bool>,
    waiting: HashMap<u64, Answer>,
    next_id: u64,
    /// Set once it was logged that the node has another version.
    told: bool,
}

impl Line {
    pub fn new(
        ends: Ends,
        settings: LinkSettings,
        calls: mpsc::Receiver<Outgoing>,
        up: watch::Sender<bool>,
    ) -> Self {
        Self {
            ends,
            settings,
            calls,
            up,
            waiting: HashMap::new(),
            next_id: 0,
            told: false,
        }
    }

    /// Keeps a connection until the client is dropped.
    pub async fn run(mut self) {
        let mut backoff = RETRY.0;
        loop {
            let ended = self.connect_and_pump(&mut backoff).await;
            self.up.send_replace(false);
            self.waiting.clear();
            let (node, kind) = (self.ends.greeting.to, self.ends.lane);
            tracing::debug!(node, ?kind, error = %ended, "connection to node ended");
            match ended.code() {
                Code::PermissionDenied | Code::FailedPrecondition => {
                    let (node, reason) = (self.address(), ended.message());
                    tracing::warn!(node, reason, "node refuses this one, trying again");
                    backoff = RETRY.1;
                }
                Code::Unauthenticated => {
                    let (node, reason) = (self.address(), ended.message());
                    tracing::warn!(
                        node,
                        reason,
                        "this node refuses the other one, trying again"
                    );
                    backoff = RETRY.1;
                }
                Code::Unimplemented if kind == Lane::Users => {
                    // While one of them is upgraded, or for long if that was forgotten.
                    if !std::mem::replace(&mut self.told, true) {
                        let (node, reason) = (self.address(), ended.message());
                        tracing::warn!(
                            node,
                            reason,
                            "node has another version, sending requests to it as HTTP"
                        );
                    }
                    backoff = OTHER_VERSION;
                }
                _ => {}
            }
            if !self.rest(backoff).await {
                return;
            }
            backoff = (2 * backoff).min(RETRY.1);
        }
    }

    /// Returns the node's current address.
    fn address(&self) -> String {
        self.ends.address.borrow().clone()
    }

    /// Waits before the next attempt, or until the address changes; calls fail meanwhile. False if
    /// the client was dropped.
    async fn rest(&mut self, backoff: Duration) -> bool {
        let until = Instant::now() + backoff;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                changed = self.ends.address.changed() => return changed.is_ok(),
                call = self.calls.recv() => match call {
                    Some(call) => fail(call),
                    None => return false,
                },
            }
        }
    }

    /// Runs one connection to its end, and returns the reason of the end.
    async fn connect_and_pump(&mut self, backoff: &mut Duration) -> Status {
        let address = self.ends.address.borrow_and_update().clone();
        let limit = self.settings.message_bytes;
        let Ends {
            dialer,
            greeting,
            lane: kind,
            ..
        } = &self.ends;
        match kind {
            Lane::Raft | Lane::Keys | Lane::Geo => {
                let opened = over_grpc(dialer, &address, (greeting, *kind), limit);
                match in_time(opened).await {
                    Ok((calls, replies)) => self.pump(calls, replies, backoff).await,
                    Err(status) => status,
                }
            }
            Lane::Users => match in_time(over_frames(dialer, &address, greeting, limit)).await {
                Ok((calls, replies)) => self.pump(calls, replies, backoff).await,
                Err(status) => status,
            },
        }
    }

    /// Sends calls and dispatches replies until the stream ends, and returns the reason of the end.
    async fn pump<C: Calls>(
        &mut self,
        mut calls: C,
        mut replies: impl Replies,
        backoff: &mut Duration,
    ) -> Status {
        *backoff = RETRY.0;
        self.told = false;
        self.up.send_replace(true);
        let mut sweep = tokio::time::interval(SWEEP);
        // Missed ticks, caught up all at once, would leave the node no time to answer.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A receiver of its own, so that the future is created once and not for each frame.
        let mut address = self.ends.address.clone();
        let mut address_changed = pin!(address.changed());
        let (mut first, mut is_sending) = (None, false);
        let (mut idle_receives, mut idle_sends) = (0, 0);
        loop {
            tokio::select! {
                frame = replies.next() => match frame {
                    Ok(Some(frame)) => {
                        idle_receives = 0;
                        let is_draining = frame.leaving;
                        self.hand_out(frame);
                        if is_draining {
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
                        // Lets other callers queue their calls, which share the frame.
                        tokio::task::yield_now().await;
                    }
                    None => return Status::cancelled("the client was dropped"),
                },
                ready = calls.room(), if is_sending || first.is_some() => {
                    if first.is_some() {
                        idle_sends = 0;
                    }
                    is_sending = first.is_some();
                    let sent = ready.and_then(|()| match first.take() {
                        Some(first) => calls.put(self.gather(first)),
                        None => Ok(()),
                    });
                    if let Err(status) = sent {
                        return status;
                    }
                }
                _ = sweep.tick() => {
                    (idle_receives, idle_sends) = (idle_receives + 1, idle_sends + 1);
                    if !C::ASKS {
                        self.waiting.retain(|_, answer| !answer.is_closed());
                        continue;
                    }
                    // Calls stay pending until they are answered: so the node never works on more
                    // of them than may be pending here, beyond which it would stop reading.
                    if idle_receives >= GIVEN_UP_AFTER {
                        return Status::unavailable("the node doesn't answer");
                    }
                    if idle_receives.max(idle_sends) >= ASKED_AFTER && !is_sending {
                        if let Err(status) = calls.put(pb::CallFrame::default()) {
                            return status;
                        }
                        (is_sending, idle_sends) = (true, 0);
                    }
                }
                // An error means that no address will follow: the client was dropped.
                _ = &mut address_changed => {
                    self.ends.address.mark_unchanged();
                    return Status::unavailable("the node has another address now");
                }
            }
        }
        let drain = tokio::time::timeout(WOUND_UP_WITHIN, self.wind_up(replies));
        let (ended, ()) = tokio::join!(drain, calls.end());
        ended.unwrap_or_else(|_| Status::unavailable("the node drained without a reply"))
    }

    /// Waits for the replies of a node that is about to stop; new calls fail unsent.
    async fn wind_up(&mut self, mut replies: impl Replies) -> Status {
        self.up.send_replace(false);
        loop {
            tokio::select! {
                frame = replies.next() => match frame {
                    Ok(Some(frame)) => self.hand_out(frame),
                    Ok(None) => return Status::unavailable("the node has drained"),
                    Err(status) => return status,
                },
                call = self.calls.recv() => match call {
                    Some(call) => fail(call),
                    None => return Status::cancelled("the client was dropped"),
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < self.settings.calls
    }

    /// Builds a frame of the queued calls, within its bounds.
    fn gather(&mut self, first: Outgoing) -> pb::CallFrame {
        let mut frame = pb::CallFrame::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(call) = next.take() {
            bytes += call.bytes.bytes();
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
            // A reply of a kind that this version doesn't know counts as none.
            let body = reply.body.ok_or(CallError::Lost);
            // The caller may have given up.
            let _ = answer.send(body);
        }
    }
}

/// Bounds the time to connect and to be greeted back.
async fn in_time<T>(opened: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(2 * CONNECT_TIMEOUT, opened)
        .await
        .unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(
                "no greeting was received in time",
            ))
        })
}

fn fail(call: Outgoing) {
    if call.fate.send() {
        let _ = call.answer.send(Err(CallError::Unsent));
    }
}
