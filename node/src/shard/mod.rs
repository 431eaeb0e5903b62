//! A shard: a part of a region's keys, on a Raft group of its own.
//!
//! | file | purpose |
//! | --- | --- |
//! | `state` | the replicated state: its header and buckets, dispatch of commands |
//! | `write` | puts and deletes |
//! | `retained` | changes and tombstones retained for other regions, and when both are removed |
//! | `merge` | applies changes of other regions |
//! | `reconcile` | fences a removed or lost region and exchanges its remaining writes |
//! | `digest` | digests that regions compare |
//! | `seed` | fills the shard of a joining region from another region |
//! | `change_log` | reads what other regions are sent, and the progress of each |
//! | `merge_queue` | batches merges into Raft entries |
//! | `expire` | removes expired keys |
//! | `bucket` | drops buckets, counts their reads |
//! | `record` | encoding and digest of records |
//! | `record_cache` | recently changed records, in memory |
//! | `checkpoints` | digests after certain entries, compared between replicas |
//! | `view` | lock-free reads, on any thread |
//! | `proposer` | batches writes into Raft entries |
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
