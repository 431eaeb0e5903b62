//! The metadata: accounts, buckets, plans, regions. One Raft group for the whole cluster.
//!
//! Every node holds all of it in memory, in the [`Catalog`], so that a key request never waits for
//! it.
//!
//! | file | what it does |
//! | --- | --- |
//! | `state` | the replicated state: rows, dispatch of commands |
//! | `buckets` | commands on buckets and accounts |
//! | `plans` | what each plan offers |
//! | `catalog` | what readers see |
//! | `usage` | what this node counts of a bucket |

mod buckets;
mod catalog;
mod plans;
mod state;
mod usage;

pub use buckets::Refusal;
pub use catalog::{Bucket, Catalog};
pub use plans::{
    Limits, MAX_KEY_BYTES, MAX_VALUE_BYTES, PlanTerms, access_to_pb, default_plans, plan_to_pb,
};
pub use state::{LEVEL, Meta, MetaState, Response};
pub use usage::Usage;
