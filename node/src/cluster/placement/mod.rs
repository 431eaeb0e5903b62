//! Which nodes should hold what: plans made from what is known, without I/O or clock.
//!
//! A plan is one step towards what should be. Whoever carries it out plans again from what came of
//! it, until nothing changes.
//!
//! | file | what it plans |
//! | --- | --- |
//! | `shards` | the nodes of each shard of a region |
//! | `leaders` | which voter of each shard should lead |
//! | `members` | voters and learners of the metadata |

mod leaders;
mod members;
#[cfg(test)]
mod members_tests;
mod shards;
#[cfg(test)]
mod shards_tests;

pub use members::{MetaCandidate, MetaMembers, plan_meta};
pub use shards::{Candidate, CurrentPlacement, ShardPlan, plan_shards};
