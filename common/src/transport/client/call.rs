//! Calls that wait for their replies.
//!
//! Invariant (unknown outcome): a call that ends `Unsent` never left this node; one that ends
//! `Lost` may have reached the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use cloudkv_proto::v1 as pb;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::byte_budget::BytePermit;

/// Error of a call without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Node that is unknown or can't be reached; the call never left this one.
    #[error("the node can't be reached")]
    Unsent,
    /// Queue for the node that is full; the call never left this one.
    #[error("too many calls are waiting for the node")]
    Busy,
    /// Call that was sent, and got no reply in time: its outcome is unknown.
    #[error("the node didn't answer")]
    Lost,
}

const WAITING: u8 = 0;
const SENT: u8 = 1;
const ABANDONED: u8 = 2;

/// State of sending a call: decided once, by the client that sends it or the caller that gives up.
#[derive(Debug, Default)]
pub(super) struct SendState(AtomicU8);

impl SendState {
    fn transition(&self, state: u8) -> bool {
        self.0
            .compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Marks the call as sent. False if the caller has given up before: then it must not be sent.
    pub(super) fn mark_sent(&self) -> bool {
        self.transition(SENT)
    }

    /// Marks the call as given up. False if it was sent before.
    fn abandon(&self) -> bool {
        self.transition(ABANDONED)
    }
}

/// Sender of a call's reply to its caller.
pub(super) type ReplySender = oneshot::Sender<Result<pb::reply::Body, CallError>>;

/// Call in the queue of a client.
pub(super) struct QueuedCall {
    pub body: pb::call::Body,
    pub state: Arc<SendState>,
    pub deadline: Instant,
    pub permit: BytePermit,
    pub reply: ReplySender,
}

impl QueuedCall {
    /// Ends a call that won't be sent, unless its caller has given up.
    pub(super) fn fail_unsent(self) {
        if self.state.mark_sent() {
            let _ = self.reply.send(Err(CallError::Unsent));
        }
    }
}

/// Reply that is awaited.
#[derive(Debug)]
pub struct PendingReply {
    state: Arc<SendState>,
    deadline: Instant,
    reply: oneshot::Receiver<Result<pb::reply::Body, CallError>>,
}

impl PendingReply {
    pub(super) fn new(
        deadline: Instant,
        reply: oneshot::Receiver<Result<pb::reply::Body, CallError>>,
    ) -> (Self, Arc<SendState>) {
        let state = Arc::new(SendState::default());
        let pending = Self {
            state: state.clone(),
            deadline,
            reply,
        };
        (pending, state)
    }

    /// Waits for the reply, at most until the call's deadline.
    ///
    /// # Errors
    /// Fails if there is no reply.
    pub async fn wait(self) -> Result<pb::reply::Body, CallError> {
        match tokio::time::timeout_at(self.deadline, self.reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) | Err(_) if self.state.abandon() => Err(CallError::Unsent),
            Ok(Err(_)) | Err(_) => Err(CallError::Lost),
        }
    }
}

/// Returns the milliseconds left until `deadline`, for the node that is called.
pub(super) fn millis_left(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}
