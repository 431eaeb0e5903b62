//! A shard: a part of a region's keys, on a Raft group of its own.
//!
//! | file | what it does |
//! | --- | --- |
//! | `state` | the replicated state: its header and buckets, dispatch of commands |
//! | `write` | puts and deletes |
//! | `held` | changes held for other regions, tombstones kept for them, and when both go |
//! | `merge` | what other regions have changed |
//! | `leave` | what becomes of a region that leaves, or is lost |
//! | `compare` | digests that regions compare |
//! | `adopt` | what a region that joins takes over |
//! | `outgoing` | what other regions are sent, and how far each is |
//! | `merger` | many merges in one Raft entry |
//! | `expire` | removing what has expired |
//! | `bucket` | dropping buckets, counting their reads |
//! | `record` | records as bytes, their digest |
//! | `recent` | records that were changed lately, in memory |
//! | `checkpoints` | what it held at certain entries, to be compared with other replicas |
//! | `view` | what readers see, on any thread |
//! | `proposer` | many writes in one Raft entry |
//! | `handle` | a running shard |

mod adopt;
mod bucket;
mod checkpoints;
mod compare;
mod expire;
mod handle;
mod held;
mod leave;
mod merge;
mod merger;
mod outgoing;
mod proposer;
mod recent;
mod record;
mod state;
mod view;
mod write;

#[cfg(test)]
mod bucket_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod leave_tests;
#[cfg(test)]
mod members_tests;
#[cfg(test)]
mod merge_bench;
#[cfg(test)]
mod merge_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod test_replicas;

pub use checkpoints::{Checkpoints, Told, Verdict, compare};
pub use cloudkv_common::hash::shard_of;
pub use compare::{Digests, RANGES};
pub use handle::{ReadError, ShardHandle, ShardSettings};
pub use leave::LEAVE_LEVEL;
pub use merge::MergeOutcome;
pub use merger::MergeError;
pub use outgoing::{Outgoing, Peering, WalkPart};
pub use proposer::{BatchSettings, QueueBudget, WriteError};
pub use state::{LEVEL, Response, Shard, ShardState};
pub use view::{Page, View};
pub use write::WriteOutcome;
