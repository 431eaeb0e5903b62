//! Asynchronous replication between regions.
//!
//! The leader of a shard in one region sends the region's own changes to the leader of the same
//! shard in each other region, from the change log that is a part of the shard's state
//! (`shard::retained`). The receiver's cursor is a part of its own state (`shard::merge`). So
//! leaders may change and nodes may fail at any moment on both sides: the next leader continues
//! from what is committed.
//!
//! | file | task |
//! | --- | --- |
//! | `replication` | dependencies of all other files |
//! | `tasks` | runs the controllers of all shards, and the enforcement of the budget |
//! | `controller` | controls a shard's replication while this node leads it |
//! | `sender` | sends a shard's changes to one other region |
//! | `backlog` | decides whether sending has low priority while the region is behind |
//! | `receiver` | answers the senders of other regions |
//! | `seeding` | copies the other regions' data before a new region serves |
//! | `received_watermarks` | asks how much of this region the others have received |
//! | `region_removal` | reconciles the survivors' data before a region is removed |
//! | `verify` | compares the regions' data |
//! | `retention_budget` | measures the changes retained for other regions |
//! | `budget_enforcement` | removes an absent region once those changes use up the budget |
//! | `status` | progress and lag of each other region |
//! | `region_monitor` | the replication to and from the other regions, as this node sees it |
//! | `region_status`, `region_metrics` | its status and metrics |

mod backlog;
mod budget_enforcement;
mod controller;
mod peer_versions;
mod received_watermarks;
mod receiver;
mod region_metrics;
mod region_monitor;
mod region_removal;
mod region_status;
mod replication;
mod retention_budget;
mod seeding;
mod sender;
mod status;
mod tasks;
mod verify;

pub(crate) use region_monitor::RegionMonitor;
pub(crate) use replication::GeoReplication;
pub(crate) use retention_budget::RetentionBudget;
pub(crate) use status::{ReplicationStatus, ShardReplication};
#[cfg(test)]
pub(crate) use verify::RangeDifference;
pub(crate) use verify::{ComparisonVerdict, RegionComparison, VerifyError};
