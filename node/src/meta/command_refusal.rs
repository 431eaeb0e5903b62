//! Reasons to refuse a command.

use super::node_refusal::NodeRefusal;

/// Result of a command.
pub(crate) type CommandResult = Result<(), CommandRefusal>;

/// Reason why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandRefusal {
    /// The cluster is bootstrapped already.
    #[error("bootstrap the cluster: it exists already")]
    AlreadyBootstrapped,
    /// The bucket doesn't exist, or is deleted.
    #[error("no such bucket")]
    UnknownBucket,
    /// The account doesn't exist.
    #[error("no such account")]
    UnknownAccount,
    /// The bucket's name or the account's key is in use: another one must be drawn.
    #[error("the name is taken")]
    NameTaken,
    /// The plan doesn't include the access mode.
    #[error("the plan does not offer the access mode")]
    AccessNotInPlan,
    /// The account has reached the plan's number of buckets.
    #[error("the account has {limit} buckets of the plan")]
    TooManyBuckets {
        /// Maximum number of buckets in the plan.
        limit: u64,
    },
    /// The cluster has reached the number of accounts that its operator allows.
    #[error("the cluster has as many accounts as it may")]
    TooManyAccounts,
    /// The cluster has reached the number of buckets that its operator allows.
    #[error("the cluster has as many buckets as it may")]
    ClusterFull,
    /// The command refers to something that doesn't exist.
    #[error("the command is malformed")]
    Malformed,
    /// Another region is joining.
    #[error("region {region} is joining: wait until it has joined")]
    RegionJoining {
        /// Number of that region.
        region: u32,
    },
    /// A region is being removed.
    #[error("region {region} is being removed: wait until it is removed")]
    RegionBeingRemoved {
        /// Number of that region.
        region: u32,
    },
    /// No other region would remain.
    #[error("the last region can't be removed: no other region has its keys")]
    LastRegion,
    /// No region has the name.
    #[error("the cluster has no region of that name")]
    NoSuchRegion,
    /// A command on nodes or placements was refused.
    #[error(transparent)]
    Node(#[from] NodeRefusal),
}
