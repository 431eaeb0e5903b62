//! Results of the faults of a run over several regions.

use super::deleted_bucket::DeletedBucket;
use crate::fault_kind::FaultCounts;
use cloudkv_test_harness::Bucket;

/// Results of the faults.
#[derive(Default)]
pub(super) struct FaultResults {
    /// Faults that happened.
    pub counts: FaultCounts,
    /// What readers of the report should know.
    pub notes: Vec<String>,
    /// What should not have happened, or didn't and should have.
    pub failures: Vec<String>,
    /// Buckets that were deleted while an isolated region wrote to them.
    pub deleted_buckets: Vec<DeletedBucket>,
    /// Buckets that a region got just before it was isolated and killed.
    pub newest_buckets: Vec<Bucket>,
}
