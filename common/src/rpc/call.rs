//! Calls that wait for their replies.
//!
//! Invariant (unknown outcome): a call that ends `Unsent` never left this node; one that ends
//! `Lost` may have reached the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use tokio::sync::oneshot;
use tokio::time::Instant;

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
const GIVEN_UP: u8 = 2;

/// State of sending a call: decided once, by the client that sends it or the caller that gives up.
#[derive(Debug, Default)]
pub(super) struct Fate(AtomicU8);

impl Fate {
    fn decide(&self, state: u8) -> bool {
        self.0
            .compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Marks the call as sent. False if the caller has given up before: then it must not be sent.
    pub(super) fn send(&self) -> bool {
        self.decide(SENT)
    }

    /// Marks the call as given up. False if it was sent before.
    fn give_up(&self) -> bool {
        self.decide(GIVEN_UP)
    }
}

/// Call in the queue of a client.
pub(super) struct Outgoing {
    pub body: pb::call::Body,
    pub fate: Arc<Fate>,
    pub deadline: Instant,
    pub bytes: super::link::Held,
    pub answer: oneshot::Sender<Result<pb::reply::Body, CallError>>,
}

/// Reply that is awaited.
#[derive(Debug)]
pub struct PendingReply {
    fate: Arc<Fate>,
    deadline: Instant,
    reply: oneshot::Receiver<Result<pb::reply::Body, CallError>>,
}

impl PendingReply {
    pub(super) fn new(
        deadline: Instant,
        reply: oneshot::Receiver<Result<pb::reply::Body, CallError>>,
    ) -> (Self, Arc<Fate>) {
        let state = Arc::new(Fate::default());
        let pending = Self {
            fate: state.clone(),
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
            Ok(Err(_)) | Err(_) if self.fate.give_up() => Err(CallError::Unsent),
            Ok(Err(_)) | Err(_) => Err(CallError::Lost),
        }
    }
}

/// Returns the milliseconds left until `deadline`, for the node that is called.
pub(super) fn millis_left(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}

/// Returns the time left for a call that was sent with so many milliseconds left.
pub fn time_left(timeout_ms: u32) -> Duration {
    Duration::from_millis(u64::from(timeout_ms))
}
