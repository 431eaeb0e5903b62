//! Reasons for which streams of changes end.

/// Reason for which a stream ends, or isn't begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The bucket was deleted.
    #[error("the bucket was deleted")]
    BucketDeleted,
    /// The bucket's access mode has changed: the client has to be authorized again.
    #[error("the bucket's access mode has changed")]
    AccessChanged,
    /// The node is stopping.
    #[error("this node is stopping")]
    Draining,
    /// There are as many watchers as the settings allow.
    #[error("there are too many watchers of this {of}")]
    TooManyWatchers {
        /// `node`, `bucket` or `address`.
        of: &'static str,
    },
    /// The client reads too slowly: changes that it has yet to be told were dropped.
    #[error("the client reads too slowly")]
    TooSlow,
    /// A shard has no leader that this node reaches, or this node's replica lags too much.
    #[error("a shard has no leader that this node reaches")]
    NotServing,
    /// Reading a key or a value failed.
    #[error("reading the data failed")]
    ReadFailed,
}

impl WatchEnd {
    /// Number of different names.
    pub(super) const COUNT: usize = 9;

    /// Names in metrics, each at its [`WatchEnd::index`].
    pub(super) const NAMES: [&'static str; Self::COUNT] = [
        "bucket_deleted",
        "access_changed",
        "draining",
        "node_watchers",
        "bucket_watchers",
        "address_watchers",
        "too_slow",
        "not_serving",
        "read_failed",
    ];

    /// Returns the index of the reason's name.
    pub(super) fn index(self) -> usize {
        match self {
            Self::BucketDeleted => 0,
            Self::AccessChanged => 1,
            Self::Draining => 2,
            Self::TooManyWatchers { of: "bucket" } => 4,
            Self::TooManyWatchers { of: "address" } => 5,
            Self::TooManyWatchers { .. } => 3,
            Self::TooSlow => 6,
            Self::NotServing => 7,
            Self::ReadFailed => 8,
        }
    }
}
