//! Scans of shards in one consistent view, as background work.
//!
//! | file | what it does |
//! | --- | --- |
//! | `paced` | scans this node's replica of a shard, and yields to users' requests |
//! | `leader` | finds the node at which a scan is begun |
//! | `records` | scans of all records of a shard, at its leader |
//! | `record_frames` | makes such scans for other nodes; their form on the way |

mod leader;
mod paced;
mod record_frames;
mod records;

pub(super) use self::leader::{LeaderSearch, ScanPlace, await_begin};
pub(super) use self::paced::PacedScan;
pub(crate) use self::records::{RecordScan, RecordScans};
