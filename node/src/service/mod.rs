//! What a request means, without any HTTP: [`Keyspace`] for keys, [`Directory`] for accounts and
//! buckets.
//!
//! | file | what it does |
//! | --- | --- |
//! | `keyspace` | get, put, delete |
//! | `listing` | listing over all shards |
//! | `room` | a plan's number of keys |
//! | `directory` | accounts and buckets: look up, create, list, modify |
//! | `plans` | what only operators do with plans |
//! | `deletion` | deleting buckets, and dropping what they held |
//! | `reports` | counts that are published and reported in the background |
//! | `shards` | the shards of this node |
//! | `errors` | what can go wrong |

mod deletion;
mod directory;
pub mod errors;
mod keyspace;
mod listing;
mod plans;
mod reports;
mod room;
mod shards;

pub use crate::meta::{Bucket, Limits, PlanTerms};
pub use crate::types;
pub use crate::types::{
    Access, AccountId, BucketId, BucketSummary, CreateBucket, CreatedBucket, Entry, KeyInfo,
    ListQuery, ModifyBucket, Nanos, Plan, Precondition, Put, Version, Written,
};
pub use directory::{Directory, DirectorySettings};
pub use errors::{DirectoryError, KeyError, Unavailable};
pub use keyspace::Keyspace;
pub use plans::{PlanChanges, PlanError};
pub use shards::Shards;

/// All that the API asks for. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    /// Keys.
    pub keyspace: Keyspace,
    /// Accounts and buckets.
    pub directory: Directory,
}
