//! Results of a run.

use super::cells::Cell;
use super::plan::Plan;
use crate::disk::FsyncLatency;
use crate::procfs::{Machine, MemoryUsage};
use crate::report::Check;
use crate::rocks;
use serde::Serialize;

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine of the run.
    pub machine: Machine,
    /// Plan of the run.
    pub plan: Plan,
    /// Latency of the disk.
    pub fsync_us: FsyncLatency,
    /// RocksDB alone.
    pub rocksdb: Vec<rocks::Throughput>,
    /// Memory of the node without data.
    pub node_fresh: Option<MemoryUsage>,
    /// Memory of the node after all cells.
    pub node_at_end: Option<MemoryUsage>,
    /// All measurements, in their order.
    pub cells: Vec<Cell>,
    /// Targets and whether they were met.
    pub checks: Vec<Check>,
    /// Notes for readers.
    pub notes: Vec<String>,
    /// Number of failed requests.
    pub errors: u64,
}
