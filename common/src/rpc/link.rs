//! The calling end of a lane: a bounded queue to the task that has its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloudkv_proto::tls::Dialer;
use cloudkv_proto::v1 as pb;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{CallError, Outgoing, PendingReply};
use super::lane::{Greeting, Lane};
use super::line::{Ends, Line};

/// What a call takes in queues beside its contents, in bytes.
const CALL_OVERHEAD: usize = 128;

/// Bounds of a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Calls that may wait for a reply.
    pub calls: usize,
    /// Bytes of calls that may wait to be sent: what a link's [`Room`] has at first.
    pub queue_bytes: usize,
    /// Bytes of a single message, the same on both sides.
    pub message_bytes: usize,
}

/// Bytes of calls that may wait to be sent, on one link or on several together.
#[derive(Clone, Debug)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    /// As much as `settings` say.
    pub fn of(settings: &LinkSettings) -> Self {
        Self(Arc::new(AtomicUsize::new(settings.queue_bytes)))
    }
}

/// Bytes that a waiting call holds of its link's room.
pub(super) struct Held {
    left: Room,
    bytes: usize,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(left: &Room, bytes: usize) -> Option<Self> {
        let less = |left: usize| left.checked_sub(bytes);
        left.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok()?;
        let left = left.clone();
        Some(Self { left, bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.left.0.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// A link to one node on one lane.
pub struct Link {
    queue: mpsc::Sender<Outgoing>,
    left: Room,
    connected: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Link {
    /// Starts a link on `runtime`, whose calls wait in `room`. `address` may change while it runs.
    pub fn start(
        runtime: &Handle,
        dialer: Dialer,
        greeting: Greeting,
        lane: Lane,
        address: watch::Receiver<String>,
        settings: LinkSettings,
        room: Room,
    ) -> Self {
        let (queue, calls) = mpsc::channel(settings.calls);
        let (up, connected) = watch::channel(false);
        let stop = CancellationToken::new();
        let ends = Ends {
            dialer,
            greeting,
            lane,
            address,
        };
        let line = Line::new(ends, settings, calls, up);
        runtime.spawn(stop.clone().run_until_cancelled_owned(line.run()));
        Self {
            queue,
            left: room,
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
