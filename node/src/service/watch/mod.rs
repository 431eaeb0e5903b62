//! Streams of a bucket's changes, for those who watch it.
//!
//! Each replica of a shard remembers its recent changes. One dispatcher a node follows them, of all
//! shards, while there are watchers, and puts those of watched buckets into rings, one for each
//! bucket and filter. A stream catches up from the memories first, and goes on with its ring.
//!
//! A position is the index of an entry in a shard's log, which is the same on all replicas of the
//! region. A resume token has one for each shard: any node of the region goes on from it.
//!
//! Invariants:
//! - What a token's positions are past was told to the client before it, or is no change that the
//!   client watches.
//! - A client is told the changes of a key in the order of their versions.
//! - A stream that may have missed a change says so by a [`WatchItem::Reset`] before anything else.
//!
//! | file | what it does |
//! | --- | --- |
//! | `watches` | starts streams, ends them when the node stops |
//! | `stream` | one stream: what it tells next |
//! | `initial` | tells what there is |
//! | `backlog` | tells what has changed since a token |
//! | `values` | loads the values of changes |
//! | `pin` | keeps the changes since a long stream has begun |
//! | `watched` | what a stream watches, and how it reads that |
//! | `dispatcher` | positions of all shards, and the hubs of the watched buckets |
//! | `reader` | a stream's place in a ring |
//! | `run` | the tasks of the dispatcher: they follow the shards, and check the buckets |
//! | `hub` | the rings of one bucket, by filter |
//! | `ring` | changes that streams have yet to tell |
//! | `event` | a change, with its token, value and text |
//! | `buffer` | bytes of changes in rings, and their bounds |
//! | `source` | reads changes, keys and values: here, or at a shard's leader |
//! | `context` | what all streams share |
//! | `admission` | bounds the number of streams |
//! | `token` | resume tokens |
//! | `settings` | settings of the node, and the request for a stream |
//! | `end` | reasons for which streams end |
//! | `status` | status and counters |

mod admission;
mod backlog;
mod buffer;
mod context;
mod dispatcher;
mod end;
mod event;
mod hub;
mod initial;
mod pin;
mod reader;
mod ring;
mod run;
mod settings;
mod source;
mod status;
mod stream;
mod token;
mod values;
mod watched;
mod watches;

#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod test_client;
#[cfg(test)]
mod test_node;

pub(crate) use end::WatchEnd;
pub(crate) use event::WatchEvent;
pub(crate) use settings::{WatchRequest, WatchSettings};
pub(crate) use status::WatchStatus;
pub(crate) use stream::{WatchItem, WatchStream};
pub(crate) use token::{ResumeToken, ResumeTokenError};
pub(crate) use watches::Watches;
