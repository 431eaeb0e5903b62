//! The service without any HTTP: [`Keyspace`] for keys, [`Directory`] for accounts and buckets.
//!
//! | file | what it does |
//! | --- | --- |
//! | `keyspace` | gets, puts and deletes keys |
//! | `listing`, `list_keys` | lists keys over all shards; reads a page of one |
//! | `batch`, `batch_execution` | executes batches of operations |
//! | `batch_operation`, `batch_waves` | their operations and outcomes; their order |
//! | `batch_writes` | writes of a batch to one shard |
//! | `shards` | routes an operation to the leader of its shard |
//! | `leader_hint` | the node to which operations on a group go |
//! | `operation` | an operation on a shard, which is executed here or sent to the shard's leader |
//! | `reads`, `writes`, `packed_write` | the operations; the form of a write |
//! | `quota` | enforces a plan's number of keys: requests and grants quota leases |
//! | `byte_quota` | enforces a plan's number of bytes |
//! | `session` | session tokens: what a client has seen in any region |
//! | `token` | the text forms of session tokens |
//! | `forwarded` | handles requests that other nodes forward |
//! | `metadata` | routes commands and queries to the metadata's leader |
//! | `metadata_proposer` | lets the modules below reach that leader |
//! | `directory` | looks up, creates and modifies accounts and buckets |
//! | `bucket_list` | lists an account's buckets, with the counts of their keys and reads |
//! | `negative_cache` | names that were looked up lately, and don't exist |
//! | `plans` | changes of plans that only operators make |
//! | `deletion` | deletes buckets, and drops their rows |
//! | `reclaim` | reclaims the disk space of dropped buckets |
//! | `export` | exports the keys of a bucket, each shard in one view |
//! | `watch` | streams of a bucket's changes |
//! | `read_changes` | reads the recent changes of a shard, or waits for the next one |
//! | `change_pins` | keeps recent changes at all nodes of the region |
//! | `reports` | counts that are published and reported in the background |
//! | `scan/` | scans of shards in one view, as background work |
//! | `errors` | the service's errors |

mod batch;
mod batch_execution;
mod batch_operation;
mod batch_waves;
mod batch_writes;
mod bucket_list;
mod byte_quota;
mod change_pins;
mod deletion;
mod directory;
pub(crate) mod errors;
mod export;
mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keyspace;
mod leader_hint;
mod list_keys;
mod listing;
mod metadata;
mod metadata_proposer;
mod negative_cache;
mod operation;
mod packed_write;
mod plans;
mod quota;
mod read_changes;
mod reads;
mod reclaim;
mod reports;
mod scan;
mod session;
mod shards;
mod token;
mod watch;
mod writes;

pub(crate) use crate::meta::{Bucket, PlanTerms};
pub(crate) use crate::shard::ListPosition;
pub(crate) use crate::store::DiskShortage;
pub(crate) use crate::types::{
    Access, AccountId, BucketId, BucketSummary, CreateBucket, Expiry, KeyChange, KeyChangeKind,
    KeyFilter, KeyInfo, KeyWrite, ListEntry, ListQuery, ModifyBucket, Nanos, Plan, Precondition,
    Put, PutDetails, ReadResult, StoredValue, Touch, Version, WriteReceipt,
};
pub(crate) use batch_operation::{BatchOperation, BatchOutcome, ValueAdmission, ValueBudget};
pub(crate) use bucket_list::BucketPosition;
pub(crate) use directory::{Directory, DirectorySettings};
pub(crate) use errors::{DirectoryError, KeyError, Unavailable};
pub(crate) use export::{Export, ExportItem, Exports};
pub(crate) use keyspace::Keyspace;
pub(crate) use listing::Listing;
pub(crate) use metadata::MetadataClient;
pub(crate) use plans::{PlanChanges, PlanError};
pub(crate) use scan::{RecordScan, RecordScans};
pub(crate) use session::SessionToken;
pub(crate) use shards::Shards;
pub(crate) use watch::{
    ResumeToken, ResumeTokenError, WatchEnd, WatchEvent, WatchItem, WatchRequest, WatchSettings,
    WatchStatus, WatchStream, Watches,
};

/// Everything that the API calls. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// Operations on keys.
    pub keyspace: Keyspace,
    /// Operations on accounts and buckets.
    pub directory: Directory,
    /// Exports of buckets.
    pub exports: Exports,
    /// Scans of whole shards.
    pub scans: RecordScans,
    /// Streams of changes.
    pub watches: Watches,
}

impl Service {
    fn metadata(&self) -> &MetadataClient {
        self.directory.metadata()
    }
}
