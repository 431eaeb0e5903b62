//! A call that waits for its reply.
//!
//! Invariant (unknown fate): a call that ends `Unsent` never left this node; one that ends `Lost`
//! may have come through.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Why a call has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node is unknown or can't be reached; the call never left this one.
    #[error("the node can't be reached")]
    Unsent,
    /// Too many calls wait for the node; the call never left this one.
    #[error("too many calls are waiting for the node")]
    Busy,
    /// It was sent, and nothing came back in time.
    #[error("the node didn't answer")]
    Lost,
}

const WAITING: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Whether a call was sent: decided once, by the link that sends it or the caller who gives up.
#[derive(Debug, Default)]
pub(super) struct Fate(AtomicU8);

impl Fate {
    fn decide(&self, fate: u8) -> bool {
        self.0
            .compare_exchange(WAITING, fate, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether it may be sent: nobody has given it up.
    pub(super) fn send(&self) -> bool {
        self.decide(SENT)
    }

    /// Whether it was given up before it was sent.
    fn give_up(&self) -> bool {
        self.decide(GIVEN_UP)
    }
}

/// What a link gets to send.
pub(super) struct Outgoing {
    pub body: pb::call::Body,
    pub fate: Arc<Fate>,
    pub deadline: Instant,
    pub bytes: super::link::Held,
    pub answer: oneshot::Sender<Result<pb::reply::Body, CallError>>,
}

/// A reply to come.
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
        let fate = Arc::new(Fate::default());
        let pending = Self {
            fate: fate.clone(),
            deadline,
            reply,
        };
        (pending, fate)
    }

    /// The reply, or why there is none, at the latest when the call's time is over.
    pub async fn wait(self) -> Result<pb::reply::Body, CallError> {
        match tokio::time::timeout_at(self.deadline, self.reply).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) | Err(_) if self.fate.give_up() => Err(CallError::Unsent),
            Ok(Err(_)) | Err(_) => Err(CallError::Lost),
        }
    }
}

/// Milliseconds left until `deadline`, for the node that is called.
pub(super) fn millis_left(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}

/// The deadline of a call that was sent with so many milliseconds left.
pub fn time_left(timeout_ms: u32) -> Duration {
    Duration::from_millis(u64::from(timeout_ms))
}
