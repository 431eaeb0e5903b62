//! Errors of the service, without HTTP. The API maps each to a status and a code.

use crate::store::DiskShortage;
use crate::types::{Access, Plan};

/// Reason for which the cluster can't take a request now. Nothing was done; a retry is safe.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unavailable {
    /// The group that serves this has no leader that this node can reach.
    #[error("{}", describe_leaderless(group))]
    NoLeader {
        /// Name of the Raft group.
        group: String,
    },
    /// A queue is full.
    #[error("too many requests are waiting in {queue}")]
    Overloaded {
        /// The queue.
        queue: &'static str,
    },
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// A write that the client has seen in another region has not arrived here yet.
    #[error("a write that the client has seen in another region has not arrived here yet")]
    Behind,
    /// Not all nodes of the cluster support this yet: an upgrade is under way.
    #[error("not all nodes of the cluster support this yet: an upgrade is under way")]
    Upgrading,
    /// This node's clock is too far from those of the others.
    #[error("this node's clock is too far from those of the others")]
    ClockOff,
}

/// Describes a group without a leader. The metadata is called as operators know it.
fn describe_leaderless(group: &str) -> String {
    match group {
        "meta" => "the metadata (accounts, buckets, nodes, regions) has no leader that this node \
                   reaches"
            .to_owned(),
        _ => format!("{group} has no leader that this node reaches"),
    }
}

/// Error of an operation on keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The cluster can't take it now; nothing was done.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The write may or may not have happened, or may still happen.
    #[error("the outcome of the write is unknown")]
    UnknownOutcome,
    /// The request's precondition does not hold.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// There is no live key to be changed.
    #[error("there is no such key")]
    NoSuchKey,
    /// A new key would exceed the plan's number of keys.
    #[error("the bucket holds the {limit} keys that its plan allows")]
    TooManyKeys {
        /// The plan's number of keys.
        limit: u64,
    },
    /// A value would exceed the plan's number of bytes in a bucket.
    #[error("the bucket holds nearly all of the {limit} bytes that its plan allows")]
    TooManyBytes {
        /// The plan's number of bytes.
        limit: u64,
    },
    /// Most replicas are below the low-water mark of disk space, or the leader is far below it;
    /// nothing was done.
    #[error("most replicas are short of disk space")]
    DiskFull(DiskShortage),
    /// The bucket was deleted.
    #[error("the bucket was deleted")]
    BucketDeleted,
    /// The data is damaged on the disk of each node that could be reached.
    #[error("the data is damaged on the disk")]
    Damaged(#[source] std::io::Error),
    /// The storage failed to read.
    #[error("storage failed")]
    Storage(#[source] std::io::Error),
}

impl KeyError {
    /// Returns a copy for another operation that failed together with this one. The source of an
    /// I/O error is reduced to its text.
    pub(super) fn duplicate(&self) -> Self {
        let io = |error: &std::io::Error| std::io::Error::new(error.kind(), error.to_string());
        match self {
            Self::Unavailable(reason) => Self::Unavailable(reason.clone()),
            Self::UnknownOutcome => Self::UnknownOutcome,
            Self::PreconditionFailed => Self::PreconditionFailed,
            Self::NoSuchKey => Self::NoSuchKey,
            Self::TooManyKeys { limit } => Self::TooManyKeys { limit: *limit },
            Self::TooManyBytes { limit } => Self::TooManyBytes { limit: *limit },
            Self::DiskFull(shortage) => Self::DiskFull(*shortage),
            Self::BucketDeleted => Self::BucketDeleted,
            Self::Damaged(error) => Self::Damaged(io(error)),
            Self::Storage(error) => Self::Storage(io(error)),
        }
    }
}

/// Error of an operation on buckets or accounts.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The cluster can't take it now; nothing was done.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The change may or may not have happened, or may still happen.
    #[error("the outcome of the change is unknown")]
    UnknownOutcome,
    /// No such bucket.
    #[error("no such bucket")]
    UnknownBucket,
    /// The key belongs to no account.
    #[error("unknown account key")]
    UnknownAccount,
    /// The bucket belongs to another account.
    #[error("the bucket belongs to another account")]
    NotOwner,
    /// The plan doesn't offer the access mode.
    #[error("plan {} does not offer access {}", plan.name(), access.name())]
    AccessNotInPlan {
        /// The requested plan, or that of the bucket.
        plan: Plan,
        /// The requested access mode, or that of the bucket.
        access: Access,
    },
    /// The account has as many buckets of this plan as it allows.
    #[error("an account has at most {limit} buckets of plan {}", plan.name())]
    TooManyBuckets {
        /// The plan.
        plan: Plan,
        /// The plan's number of buckets per account.
        limit: u64,
    },
    /// The cluster holds as many accounts or buckets as the operator allows.
    #[error("the cluster holds as many {what} as its operator allows")]
    ClusterFull {
        /// `accounts` or `buckets`.
        what: &'static str,
    },
    /// Most nodes that hold the metadata are below the low-water mark of disk space; nothing was
    /// done.
    #[error("most nodes are short of disk space")]
    DiskFull(DiskShortage),
    /// Only the operator gives this plan.
    #[error("plan {} is given by the operator", plan.name())]
    PlanNotSelfService {
        /// The requested plan.
        plan: Plan,
    },
    /// The bucket holds more than the new plan allows.
    #[error("the bucket exceeds plan {}: {what}", plan.name())]
    ExceedsPlan {
        /// The requested plan.
        plan: Plan,
        /// The limit that is exceeded, and by how much.
        what: String,
    },
    /// `confirm` is not the number of keys.
    #[error("the bucket holds {keys} keys")]
    ConfirmMismatch {
        /// The number of keys, counted now.
        keys: u64,
    },
    /// The system has no random numbers, or the storage failed.
    #[error("storage failed")]
    Storage(#[source] std::io::Error),
}
