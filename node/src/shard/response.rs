//! Results of commands.

use crate::types::WriteReceipt;

/// Result of applying a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardResponse {
    /// Applied; there is nothing to report.
    Done,
    /// Outcome of each write, in their order.
    Writes(Vec<WriteOutcome>),
    /// Outcome of each merge, in their order.
    Merges(Vec<MergeOutcome>),
    /// Outcome of a reconciliation of a removed region's writes.
    Reconciled {
        /// True if they were applied: the removed region is fenced here.
        is_applied: bool,
    },
    /// Outcome of an expiry run.
    Expired {
        /// True if more keys have expired than the command's limit: propose it again at once.
        has_more: bool,
    },
}

/// Outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was applied.
    Written(WriteReceipt),
    /// Its condition didn't hold.
    ConditionFailed,
    /// It would change a live key, and there is none.
    KeyMissing,
    /// The key is new, and no quota was reserved for it.
    NoQuota,
    /// The bucket is dropped.
    BucketDropped,
}

/// Outcome of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOutcome {
    /// True if this shard follows the origin's history.
    pub is_known: bool,
    /// Cursor after the merge.
    pub cursor: u64,
}
