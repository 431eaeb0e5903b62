//! The service without any HTTP: [`Keyspace`] for keys, [`Directory`] for accounts and buckets.
//!
//! | file | what it does |
//! | --- | --- |
//! | `keyspace` | gets, puts and deletes keys |
//! | `listing` | lists keys over all shards |
//! | `shards` | routes an operation to the leader of its shard |
//! | `leader_hint` | the node to which operations on a group go |
//! | `operation` | an operation on a shard, which is executed here or sent to the shard's leader |
//! | `reads`, `writes` | the operations |
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
//! | `reports` | counts that are published and reported in the background |
//! | `errors` | the service's errors |

mod bucket_list;
mod byte_quota;
mod deletion;
mod directory;
pub(crate) mod errors;
mod forwarded;
mod keyspace;
mod leader_hint;
mod listing;
mod metadata;
mod metadata_proposer;
mod negative_cache;
mod operation;
mod plans;
mod quota;
mod reads;
mod reclaim;
mod reports;
mod session;
mod shards;
mod token;
mod writes;

pub(crate) use crate::meta::{Bucket, PlanTerms};
pub(crate) use crate::store::DiskShortage;
pub(crate) use crate::types::{
    Access, AccountId, BucketId, BucketSummary, CreateBucket, KeyInfo, ListQuery, ModifyBucket,
    Nanos, Plan, Precondition, Put, ReadResult, StoredValue, Version,
};
pub(crate) use directory::{Directory, DirectorySettings};
pub(crate) use errors::{DirectoryError, KeyError, Unavailable};
pub(crate) use keyspace::Keyspace;
pub(crate) use metadata::MetadataClient;
pub(crate) use plans::{PlanChanges, PlanError};
pub(crate) use session::SessionToken;
pub(crate) use shards::Shards;

/// Everything that the API calls. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// Operations on keys.
    pub keyspace: Keyspace,
    /// Operations on accounts and buckets.
    pub directory: Directory,
}

impl Service {
    fn metadata(&self) -> &MetadataClient {
        self.directory.metadata()
    }
}
