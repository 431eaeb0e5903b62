//! A shard: a part of a region's keys, on a Raft group of its own.
//!
//! | file | purpose |
//! | --- | --- |
//! | `state_machine` | dispatch of commands |
//! | `feature_level` | the levels that this version supports |
//! | `response` | results of commands |
//! | `state` | the replicated state: its header, buckets and records |
//! | `rows` | reads of the state's rows |
//! | `record_change` | changes of records, and of all that is derived from records |
//! | `write` | puts and deletes |
//! | `peers` | other regions' progress, as the header records it |
//! | `retained` | changes and tombstones retained for other regions, and when both are removed |
//! | `merge` | applies changes of other regions |
//! | `reconcile` | fences a removed or lost region and exchanges its remaining writes |
//! | `digest` | digests that regions compare |
//! | `seed` | fills the shard of a joining region from another region |
//! | `change_log` | reads what other regions are sent, and the progress of each |
//! | `merge_queue` | batches merges into Raft entries |
//! | `expire` | removes expired keys |
//! | `bucket` | drops buckets, counts their reads |
//! | `visible_change` | records the changes that readers see |
//! | `remembered_change` | a recorded change, in memory |
//! | `pending_changes` | recorded changes of the batch under construction |
//! | `change_memory` | bounded memory of recorded changes |
//! | `change_pins` | keeps them beyond its bound |
//! | `recent_changes` | recorded changes, for readers on any thread |
//! | `record` | encoding and digest of records |
//! | `record_cache` | recently changed records, in memory |
//! | `view` | lock-free reads, on any thread |
//! | `bucket_scan` | streams a bucket's live keys in one view |
//! | `record_scan` | streams all live records in one view |
//! | `page` | pages of lists, with the keys' common prefixes |
//! | `list_position` | positions behind which a list goes on |
//! | `listed_record` | decodes records without copying their values |
//! | `proposer` | batches writes into Raft entries |
//! | `handle` | a running shard |

mod bucket;
mod bucket_scan;
mod change_log;
mod change_memory;
mod change_pins;
mod digest;
mod expire;
mod feature_level;
mod handle;
mod list_position;
mod listed_record;
mod merge;
mod merge_queue;
mod page;
mod peers;
mod pending_changes;
mod proposer;
mod recent_changes;
mod reconcile;
mod record;
mod record_cache;
mod record_change;
mod record_scan;
mod remembered_change;
mod response;
mod retained;
mod rows;
mod seed;
mod state;
mod state_machine;
mod view;
mod visible_change;
mod write;

#[cfg(test)]
mod bucket_tests;
#[cfg(test)]
mod changes_model_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod members_tests;
#[cfg(test)]
mod merge_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod offline_recovery_tests;
#[cfg(test)]
mod reconcile_tests;
#[cfg(test)]
mod recovery_model_tests;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod test_recorder;
#[cfg(test)]
mod test_region;
#[cfg(test)]
mod test_replicas;

pub(crate) use bucket_scan::ScanChunk;
pub(crate) use change_log::{BulkCopyChunk, ChangeBatch};
pub(crate) use change_memory::ChangesRange;
pub(crate) use cloudkv_common::hash::shard_of;
pub(crate) use digest::MAX_DIGEST_RANGES;
pub(crate) use feature_level::{FIRST_LEVEL, KEY_METADATA_LEVEL, have_metadata};
pub(crate) use handle::{ReadError, ShardHandle, ShardSettings};
pub(crate) use list_position::ListPosition;
pub(crate) use merge_queue::MergeError;
pub(crate) use page::Page;
pub(crate) use peers::ReplicationView;
pub(crate) use proposer::{BatchSettings, WriteError};
pub(crate) use recent_changes::{ChangesPage, RecentChanges, TooOld};
pub(crate) use record_scan::RecordChunk;
pub(crate) use response::{MergeOutcome, ShardResponse, WriteOutcome};
pub(crate) use state::{ShardState, StateMemory};
pub(crate) use state_machine::Shard;
pub(crate) use view::ShardView;
