//! Raft logs of all groups of a node: one log on the disk, in segments, which one thread syncs.
//!
//! ```text
//! append ──► tail (in memory) ──► writer: write, sync, complete ──► segments 5 │ 6 │ 7 ...
//!              index: group, entry ► location                       oldest        newest
//! ```
//!
//! *Written* means: readable by this process, and ordered before everything written later.
//! *Durable* means: it survives a power loss, which holds once the completion was called.
//!
//! Invariants:
//! - The log on the disk is the records in the order in which they were written, up to some record:
//!   each names the one before (`frame`), so nothing else can be read after it (`recovery`).
//! - A completion is called with `Ok` only after a sync that began after its records were written.
//! - Records that recovery reads are made durable before the log is open: a process that was killed
//!   may have written them without a sync, or with one that has failed, and Raft treats what it
//!   reads as durable. They are written again, and synced.
//! - A read of an entry from the disk returns the requested entry, unchanged, or an error that
//!   names the file: checksum, group and index are checked before the entry is returned.
//! - A segment is reused only when no entry in it is needed, and the records that establish that
//!   are durable. Votes and positions are repeated at the beginning of each segment, and the few
//!   entries still needed of an old one are relocated (`cleaner`), so that an idle group doesn't
//!   keep old segments in use.
//!
//! | file | purpose |
//! | --- | --- |
//! | `frame` | encoding of a record |
//! | `index` | the log's contents, in memory |
//! | `tail` | end of the log: records that wait to be written |
//! | `segment` | files of the log |
//! | `shared_log` | the state that the log's thread shares with its callers |
//! | `entry_source` | reads entries, from memory or from the disk |
//! | `segment_log` | the log as its users see it |
//! | `writer` | the thread that writes and syncs |
//! | `open` | opens the log |
//! | `recovery` | reads the log at a start |
//! | `data_loss` | classifies missing synced records: explained by a power failure or not |
//! | `cleaner` | relocates entries to free old segments |

mod cleaner;
mod data_loss;
mod entry_source;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod index;
mod open;
mod recovery;
mod segment;
mod segment_log;
mod shared_log;
mod tail;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod model_tests;

pub(crate) use self::segment_log::SegmentLog;
pub(super) use self::shared_log::LogSettings;
