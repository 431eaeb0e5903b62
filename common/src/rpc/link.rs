//! Calling end of a stream: a bounded queue to the task that owns the connection.

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

/// Bytes that a call takes in queues beside its contents.
const CALL_OVERHEAD: usize = 128;

/// Bounds of an RPC client.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Maximum number of calls that wait for a reply.
    pub calls: usize,
    /// Maximum bytes of calls that wait to be sent: the size of a [`CallQueueBudget`].
    pub queue_bytes: usize,
    /// Maximum bytes of a single message, the same on both sides.
    pub message_bytes: usize,
}

/// Bytes of calls that may wait to be sent, for one client or shared by several.
#[derive(Clone, Debug)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    /// A budget of the size that `settings` give.
    pub fn of(settings: &LinkSettings) -> Self {
        Self(Arc::new(AtomicUsize::new(settings.queue_bytes)))
    }
}

/// Bytes that a queued call takes of its client's budget, until it is dropped.
pub(super) struct Held {
    left: Room,
    bytes: usize,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn take(budget: &Room, bytes: usize) -> Option<Self> {
        let less = |available: usize| available.checked_sub(bytes);
        budget
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok()?;
        let budget = budget.clone();
        Some(Self {
            left: budget,
            bytes,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.left.0.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

/// Client for the calls of one kind to one node.
pub struct Link {
    queue: mpsc::Sender<Outgoing>,
    left: Room,
    connected: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Link {
    /// Starts a client, whose task runs on `runtime` and whose queue is bounded by `budget`.
    /// `address` may change while it runs.
    pub fn start(
        runtime: &Handle,
        dialer: Dialer,
        greeting: Greeting,
        kind: Lane,
        address: watch::Receiver<String>,
        settings: LinkSettings,
        budget: Room,
    ) -> Self {
        let (queue, calls) = mpsc::channel(settings.calls);
        let (connected_sender, connected) = watch::channel(false);
        let stop = CancellationToken::new();
        let target = Ends {
            dialer,
            greeting,
            lane: kind,
            address,
        };
        let task = Line::new(target, settings, calls, connected_sender);
        runtime.spawn(stop.clone().run_until_cancelled_owned(task.run()));
        Self {
            queue,
            left: budget,
            connected,
            stop,
        }
    }

    /// Queues a call. Calls of one caller are sent in the order in which they were queued.
    ///
    /// # Errors
    /// [`CallError::Unsent`] without a connection, [`CallError::Busy`] if the queue is full.
    pub fn call(&self, body: pb::call::Body, timeout: Duration) -> Result<PendingReply, CallError> {
        if !self.is_connected() {
            return Err(CallError::Unsent);
        }
        let permit = Held::take(&self.left, body.encoded_len() + CALL_OVERHEAD);
        let permit = permit.ok_or(CallError::Busy)?;
        let (reply_sender, reply) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let (pending, state) = PendingReply::new(deadline, reply);
        let call = Outgoing {
            body,
            fate: state,
            deadline,
            bytes: permit,
            answer: reply_sender,
        };
        match self.queue.try_send(call) {
            Ok(()) => Ok(pending),
            Err(mpsc::error::TrySendError::Full(_)) => Err(CallError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CallError::Unsent),
        }
    }

    /// Returns whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Returns a receiver of whether there is a connection.
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
