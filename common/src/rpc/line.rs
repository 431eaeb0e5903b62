//! The task of a link: one connection, one stream.
//!
//! Calls that wait go together in one frame: before one is made, all tasks that are ready have their
//! turn. So frames hold many calls when there are many callers, and none waits when there are few.
//!
//! A call whose node can't be reached fails at once, unsent; calls that were sent when the stream
//! breaks are lost: their fate is unknown.

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

/// Calls in one frame.
const FRAME_CALLS: usize = 512;
/// Bytes of calls in one frame, about; a larger call goes alone.
const FRAME_BYTES: usize = 1 << 20;
/// Between tries to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Before a node of another version is tried again.
const OTHER_VERSION: Duration = Duration::from_secs(5);
/// How often it is looked at what doesn't end by itself.
const SWEEP: Duration = Duration::from_millis(500);
/// When nothing has come, or gone, for so many looks, the node is asked whether it is there ...
const ASKED_AFTER: u32 = 2;
/// ... and when nothing has come for so many, the connection is given up.
const GIVEN_UP_AFTER: u32 = 6;
/// Time for a node that leaves to answer what was sent: it waits less long for that itself.
const WOUND_UP_WITHIN: Duration = Duration::from_secs(10);

type Answer = oneshot::Sender<Result<pb::reply::Body, CallError>>;

/// Who talks to whom.
pub(super) struct Ends {
    pub dialer: Dialer,
    pub greeting: Greeting,
    pub lane: Lane,
    pub address: watch::Receiver<String>,
}

/// What a link's task works with.
pub(super) struct Line {
    ends: Ends,
    settings: LinkSettings,
    calls: mpsc::Receiver<Outgoing>,
    up: watch::Sender<bool>,
    waiting: HashMap<u64, Answer>,
    next_id: u64,
    /// Whether it was told that the node is of another version.
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

    /// Keeps a connection, until nobody calls any more.
    pub async fn run(mut self) {
        let mut pause = RETRY.0;
        loop {
            let ended = self.connect_and_pump(&mut pause).await;
            self.up.send_replace(false);
            self.waiting.clear();
            let (to, lane) = (self.ends.greeting.to, self.ends.lane);
            tracing::debug!(to, ?lane, %ended, "link to a node ended");
            match ended.code() {
                Code::PermissionDenied | Code::FailedPrecondition => {
                    let (node, reason) = (self.address(), ended.message());
                    tracing::warn!(node, reason, "node refuses this one, trying again");
                    pause = RETRY.1;
                }
                Code::Unauthenticated => {
                    let (node, reason) = (self.address(), ended.message());
                    tracing::warn!(node, reason, "this node refuses another, trying again");
                    pause = RETRY.1;
                }
                Code::Unimplemented if lane == Lane::Users => {
                    // While one of them is upgraded, or for long if that was forgotten.
                    if !std::mem::replace(&mut self.told, true) {
                        let (node, reason) = (self.address(), ended.message());
                        tracing::warn!(
                            node,
                            reason,
                            "node of another version: requests go to it by HTTP"
                        );
                    }
                    pause = OTHER_VERSION;
                }
                _ => {}
            }
            if !self.rest(pause).await {
                return;
            }
            pause = (2 * pause).min(RETRY.1);
        }
    }

    /// Where the node is reached.
    fn address(&self) -> String {
        self.ends.address.borrow().clone()
    }

    /// Waits before the next try; what comes meanwhile fails. `false`: nobody calls any more.
    async fn rest(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
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

    /// One connection, from begin to end; tells why it ended.
    async fn connect_and_pump(&mut self, pause: &mut Duration) -> Status {
        let address = self.ends.address.borrow_and_update().clone();
        let limit = self.settings.message_bytes;
        let Ends {
            dialer,
            greeting,
            lane,
            ..
        } = &self.ends;
        match lane {
            Lane::Raft | Lane::Keys | Lane::Geo => {
                let opened = over_grpc(dialer, &address, (greeting, *lane), limit);
                match in_time(opened).await {
                    Ok((calls, replies)) => self.pump(calls, replies, pause).await,
                    Err(status) => status,
                }
            }
            Lane::Users => match in_time(over_frames(dialer, &address, greeting, limit)).await {
                Ok((calls, replies)) => self.pump(calls, replies, pause).await,
                Err(status) => status,
            },
        }
    }

    /// Sends calls and hands out replies until the stream ends; tells why it did.
    async fn pump<C: Calls>(
        &mut self,
        mut calls: C,
        mut replies: impl Replies,
        pause: &mut Duration,
    ) -> Status {
        *pause = RETRY.0;
        self.told = false;
        self.up.send_replace(true);
        let mut sweep = tokio::time::interval(SWEEP);
        // Looks that come late, all at once, would leave the node no time to answer.
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Of its own, so that it is made once and not for each frame.
        let mut address = self.ends.address.clone();
        let mut moved = pin!(address.changed());
        let (mut first, mut put) = (None, false);
        let (mut none_came, mut none_went) = (0, 0);
        loop {
            tokio::select! {
                frame = replies.next() => match frame {
                    Ok(Some(frame)) => {
                        none_came = 0;
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
                room = calls.room(), if put || first.is_some() => {
                    if first.is_some() {
                        none_went = 0;
                    }
                    put = first.is_some();
                    let sent = room.and_then(|()| match first.take() {
                        Some(first) => calls.put(self.gather(first)),
                        None => Ok(()),
                    });
                    if let Err(status) = sent {
                        return status;
                    }
                }
                _ = sweep.tick() => {
                    (none_came, none_went) = (none_came + 1, none_went + 1);
                    if !C::ASKS {
                        self.waiting.retain(|_, answer| !answer.is_closed());
                        continue;
                    }
                    // All stay until they are answered: so the node never works on more of them than
                    // may wait here, after which it would read no further.
                    if none_came >= GIVEN_UP_AFTER {
                        return Status::unavailable("the node doesn't answer");
                    }
                    if none_came.max(none_went) >= ASKED_AFTER && !put {
                        if let Err(status) = calls.put(pb::CallFrame::default()) {
                            return status;
                        }
                        (put, none_went) = (true, 0);
                    }
                }
                // That it will never move again means that nobody calls any more.
                _ = &mut moved => {
                    self.ends.address.mark_unchanged();
                    return Status::unavailable("the node has another address now");
                }
            }
        }
        let wind_up = tokio::time::timeout(WOUND_UP_WITHIN, self.wind_up(replies));
        let (ended, ()) = tokio::join!(wind_up, calls.end());
        ended.unwrap_or_else(|_| Status::unavailable("the node left without an answer"))
    }

    /// The node is about to stop: nothing more is sent to it, and what was sent is answered.
    async fn wind_up(&mut self, mut replies: impl Replies) -> Status {
        self.up.send_replace(false);
        loop {
            tokio::select! {
                frame = replies.next() => match frame {
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
            // A reply of a kind that this version doesn't know tells nothing.
            let body = reply.body.ok_or(CallError::Lost);
            // Whoever asked may have given up.
            let _ = answer.send(body);
        }
    }
}

/// Connects, and is greeted back, in time.
async fn in_time<T>(opened: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(2 * CONNECT_TIMEOUT, opened)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no greeting came back")))
}

fn fail(call: Outgoing) {
    if call.fate.send() {
        let _ = call.answer.send(Err(CallError::Unsent));
    }
}
