//! Requests to a shard, in a form that is answered here or sent to where its leader is.
//!
//! An [`Operation`] says how a request is answered by a shard that this node leads, and how it and
//! its answer travel. The same code answers users of this node and those of others.

use std::future::Future;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, refused, reply};

use super::errors::{KeyError, Unavailable};
use crate::raft::NodeId;
use crate::shard::{ReadError, ShardHandle, WriteError};
use crate::store::StoreError;

/// Why a shard on this node has no answer.
#[derive(Debug)]
pub enum Missed {
    /// Nothing was done: this node doesn't lead the shard.
    NotLeader,
    /// What it needs is damaged on this node's disk, and nothing was done. Another node, which has
    /// it too, will lead the shard soon.
    Damaged(StoreError),
    /// It was tried, and this is what came of it.
    Failed(KeyError),
}

/// A request to one shard.
pub trait Operation: Sync {
    /// What it is answered with.
    type Output: Send;
    /// Whether it may be sent again when it isn't known whether it was done.
    const REPEATABLE: bool;

    /// Answers it on this node, which leads the shard.
    fn here(
        &self,
        shard: &ShardHandle,
    ) -> impl Future<Output = Result<Self::Output, Missed>> + Send;

    /// The request as it travels to shard `shard`.
    fn call(&self, shard: u16) -> call::Body;

    /// The answer as it travels.
    fn encode(output: Self::Output) -> reply::Body;

    /// The answer that came; `None` if it is none to this request.
    fn decode(reply: reply::Body) -> Option<Self::Output>;

    /// What it takes in memory while it waits, in bytes.
    fn size(&self) -> usize {
        256
    }
}

impl From<KeyError> for Missed {
    fn from(error: KeyError) -> Self {
        Self::Failed(error)
    }
}

impl From<ReadError> for Missed {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader => Self::NotLeader,
            ReadError::Overloaded => {
                let queue = "disk reads";
                KeyError::from(Unavailable::Overloaded { queue }).into()
            }
            ReadError::Damaged {
                elsewhere: true,
                source,
            } => Self::Damaged(source),
            ReadError::Damaged {
                elsewhere: false,
                source,
            } => KeyError::Damaged(source.into()).into(),
            ReadError::Storage(error) => KeyError::Storage(error.into()).into(),
        }
    }
}

impl From<WriteError> for Missed {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotLeader => Self::NotLeader,
            WriteError::Overloaded => {
                let queue = "writes";
                KeyError::from(Unavailable::Overloaded { queue }).into()
            }
            WriteError::Stopping => KeyError::from(Unavailable::Stopping).into(),
            WriteError::Unknown => KeyError::UnknownOutcome.into(),
        }
    }
}

/// What another node's refusal means for a request.
pub(super) enum Refusal {
    /// Nothing was done; it may be sent to the leader, if known.
    Elsewhere(Option<NodeId>),
    /// This is what the user is told.
    Final(KeyError),
}

pub(super) fn read_refusal(refused: pb::Refused) -> Refusal {
    use refused::Reason;
    match refused.reason() {
        Reason::NotLeader => Refusal::Elsewhere((refused.leader != 0).then_some(refused.leader)),
        Reason::NotHere | Reason::Stopping => Refusal::Elsewhere(None),
        Reason::Busy => {
            let queue = "the queues of the shard's leader";
            Refusal::Final(Unavailable::Overloaded { queue }.into())
        }
        Reason::UnknownOutcome => Refusal::Final(KeyError::UnknownOutcome),
        Reason::Damaged => {
            Refusal::Final(KeyError::Damaged(std::io::Error::other(refused.message)))
        }
        Reason::Failed | Reason::Unspecified => {
            Refusal::Final(KeyError::Storage(std::io::Error::other(refused.message)))
        }
    }
}

/// What this node tells another of why it has no answer.
pub(super) fn write_refusal(missed: Missed, leader: Option<NodeId>) -> reply::Body {
    use refused::Reason;
    let (reason, message) = match missed {
        Missed::NotLeader => (Reason::NotLeader, String::new()),
        Missed::Damaged(error) => (Reason::NotHere, error.to_string()),
        Missed::Failed(error) => {
            let reason = match &error {
                KeyError::Unavailable(Unavailable::Overloaded { .. }) => Reason::Busy,
                KeyError::Unavailable(Unavailable::Stopping) => Reason::Stopping,
                KeyError::Unavailable(
                    Unavailable::NoLeader { .. } | Unavailable::ClockOff | Unavailable::Behind,
                ) => Reason::NotHere,
                KeyError::UnknownOutcome => Reason::UnknownOutcome,
                KeyError::Damaged(_) => Reason::Damaged,
                KeyError::PreconditionFailed
                | KeyError::TooManyKeys { .. }
                | KeyError::TooManyBytes { .. }
                | KeyError::DiskFull { .. }
                | KeyError::BucketGone
                | KeyError::Storage(_) => Reason::Failed,
            };
            (reason, error.to_string())
        }
    };
    reply::Body::Refused(pb::Refused {
        reason: reason.into(),
        message,
        leader: leader.unwrap_or(0),
    })
}
