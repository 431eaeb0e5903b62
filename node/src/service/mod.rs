//! What a request means, without any HTTP: [`Keyspace`] for keys, [`Directory`] for accounts and
//! buckets.
//!
//! | file | what it does |
//! | --- | --- |
//! | `keyspace` | get, put, delete |
//! | `listing` | listing over all shards |
//! | `shards` | the shards, and the way to the leader of each |
//! | `operation` | a request to a shard, in a form that is answered here or sent to its leader |
//! | `reads`, `writes` | the operations |
//! | `room` | a plan's number of keys |
//! | `session` | what a client has seen, wherever it was |
//! | `token` | the same as text |
//! | `answers` | requests that other nodes pass on |
//! | `metadata` | the way to the metadata's leader |
//! | `directory` | accounts and buckets: look up, create, list, modify |
//! | `plans` | what only operators do with plans |
//! | `deletion` | deleting buckets, and dropping what they held |
//! | `reports` | counts that are published and reported in the background |
//! | `errors` | what can go wrong |

mod absent;
mod answers;
mod bytes;
mod deletion;
mod directory;
pub mod errors;
mod keyspace;
mod listing;
mod metadata;
mod operation;
mod plans;
mod reads;
mod reclaim;
mod reports;
mod room;
mod session;
mod shards;
mod token;
mod writes;

pub use crate::meta::{Bucket, Limits, PlanTerms};
pub use crate::types;
pub use crate::types::{
    Access, AccountId, BucketId, BucketSummary, CreateBucket, CreatedBucket, Entry, KeyInfo,
    ListQuery, ModifyBucket, Nanos, Plan, Precondition, Put, ReadResult, Version, Written,
};
pub use directory::{Directory, DirectorySettings};
pub use errors::{DirectoryError, KeyError, Unavailable};
pub use keyspace::Keyspace;
pub use metadata::Metadata;
pub use plans::{PlanChanges, PlanError};
pub use session::{Session, SessionError};
pub use shards::Shards;

/// All that the API asks for. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// Keys.
    pub keyspace: Keyspace,
    /// Accounts and buckets.
    pub directory: Directory,
}

impl Service {
    fn metadata(&self) -> &Metadata {
        self.directory.metadata()
    }
}
