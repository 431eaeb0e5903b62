//! Plans which nodes should have which replicas, from given facts, without I/O or clock.
//!
//! A plan is one step towards the target. Its executor plans again from the result, until nothing
//! changes.
//!
//! | file | plans |
//! | --- | --- |
//! | `shards` | the nodes of each shard of a region |
//! | `leaders` | the voter of each shard that should lead |
//! | `members` | voters and learners of the metadata |

mod leaders;
mod members;
#[cfg(test)]
mod members_tests;
mod shards;
#[cfg(test)]
mod shards_tests;

pub(crate) use members::{MetadataCandidate, plan_metadata};
pub(crate) use shards::{CurrentPlacement, ShardCandidate, ShardPlan, plan_shards};
