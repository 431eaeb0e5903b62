//! Clients that watch a bucket while machines and networks fail, and exports and imports meanwhile.
//!
//! Watchers of all keys, of a prefix and of one key, with and without `initial` and values, follow
//! the bucket that the workload writes: through routers over HTTP/1.1 and HTTP/2, and at a node.
//! Beside the faults of the run, routers are killed and restarted, connections break, and clients
//! stop reading. At the end each must have exactly what the bucket has. Exports are followed from
//! their token on, and imports are repeated until they are whole.

mod bucket_export;
mod client_link;
mod client_plan;
mod exporter;
mod importer;
mod key_writer;
mod load;
mod projection;
mod router_faults;
mod watchers;

/// Arguments for nodes that remember little, so that some clients have to begin anew.
pub(crate) const NODE_ARGS: [&str; 2] = ["--recent-changes-mib=1", "--watch-buffer-kib=64"];

#[cfg(test)]
mod fake_bucket;
#[cfg(test)]
mod watchers_tests;

pub(crate) use key_writer::WATCHED_PREFIX;
pub(crate) use load::{WatchLoad, WatchResult, WatchedRegion};
