//! Operations on a shard, which are executed here or sent to the shard's leader.
//!
//! An [`Operation`] defines how a request is executed by a shard that this node leads, and how it
//! and its reply are encoded. The same code serves users of this node and those of other nodes.

use std::future::Future;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, refused, reply};

use super::errors::{KeyError, Unavailable};
use crate::raft::NodeId;
use crate::shard::{ReadError, ShardHandle, WriteError};
use crate::store::StoreError;

/// Error of an operation that was executed on this node's replica of a shard.
#[derive(Debug)]
pub(super) enum ShardError {
    /// Nothing was done: this node doesn't lead the shard.
    NotLeader,
    /// The data is damaged on this node's disk, and nothing was done. Another node, which has the
    /// data too, will lead the shard soon.
    Damaged(StoreError),
    /// The operation failed.
    Failed(KeyError),
}

/// An operation on one shard.
pub(super) trait Operation: Sync {
    /// Result of the operation.
    type Output: Send;
    /// True if the operation may be sent again after an unknown outcome.
    const RETRYABLE: bool;

    /// Executes the operation on this node, which leads the shard.
    fn execute(
        &self,
        shard: &ShardHandle,
    ) -> impl Future<Output = Result<Self::Output, ShardError>> + Send;

    /// Encodes the operation as a call to the leader of `shard`.
    fn to_call(&self, shard: u16) -> call::Body;

    /// Encodes the result as a reply.
    fn encode(output: Self::Output) -> reply::Body;

    /// Decodes a reply; `None` if it is of another operation.
    fn decode(reply: reply::Body) -> Option<Self::Output>;

    /// Approximate size in memory while the operation is queued, in bytes.
    fn queued_bytes(&self) -> usize {
        256
    }
}

impl From<KeyError> for ShardError {
    fn from(error: KeyError) -> Self {
        Self::Failed(error)
    }
}

impl From<ReadError> for ShardError {
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

impl From<WriteError> for ShardError {
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

/// Meaning of another node's refusal for an operation.
pub(super) enum ForwardRefusal {
    /// Nothing was done; the operation may be sent to the leader, if it is known.
    Redirect(Option<NodeId>),
    /// The operation failed with this error.
    Final(KeyError),
}

/// Decodes another node's refusal.
pub(super) fn decode_refusal(refused: pb::Refused) -> ForwardRefusal {
    use refused::Reason;
    match refused.reason() {
        Reason::NotLeader => ForwardRefusal::Redirect(NodeId::nonzero(refused.leader)),
        Reason::NotHere | Reason::Stopping => ForwardRefusal::Redirect(None),
        Reason::Busy => {
            let queue = "the queues of the shard's leader";
            ForwardRefusal::Final(Unavailable::Overloaded { queue }.into())
        }
        Reason::UnknownOutcome => ForwardRefusal::Final(KeyError::UnknownOutcome),
        Reason::Damaged => {
            ForwardRefusal::Final(KeyError::Damaged(std::io::Error::other(refused.message)))
        }
        Reason::Failed | Reason::Unspecified => {
            ForwardRefusal::Final(KeyError::Storage(std::io::Error::other(refused.message)))
        }
    }
}

/// Encodes an error as a refusal that names the leader, if it is another node.
pub(super) fn encode_refusal(error: ShardError, leader: Option<NodeId>) -> reply::Body {
    use refused::Reason;
    let (reason, message) = match error {
        ShardError::NotLeader => (Reason::NotLeader, String::new()),
        ShardError::Damaged(error) => (Reason::NotHere, error.to_string()),
        ShardError::Failed(error) => {
            let reason = match &error {
                KeyError::Unavailable(Unavailable::Overloaded { .. }) => Reason::Busy,
                KeyError::Unavailable(Unavailable::Stopping) => Reason::Stopping,
                KeyError::Unavailable(
                    Unavailable::NoLeader { .. }
                    | Unavailable::ClockOff
                    | Unavailable::Behind
                    | Unavailable::Upgrading,
                ) => Reason::NotHere,
                KeyError::UnknownOutcome => Reason::UnknownOutcome,
                KeyError::Damaged(_) => Reason::Damaged,
                KeyError::PreconditionFailed
                | KeyError::NoSuchKey
                | KeyError::TooManyKeys { .. }
                | KeyError::TooManyBytes { .. }
                | KeyError::DiskFull { .. }
                | KeyError::BucketDeleted
                | KeyError::Storage(_) => Reason::Failed,
            };
            (reason, error.to_string())
        }
    };
    reply::Body::Refused(pb::Refused {
        reason: reason.into(),
        message,
        leader: leader.map_or(0, u64::from),
    })
}
