//! Metrics: counters and histograms without contention, and their Prometheus text.
//!
//! There is no registry: the owner of a metric keeps it as a field, counts on it without a look-up,
//! and writes it into an [`Exposition`] when the admin port is scraped. So a metric lives as long
//! as its owner, tests don't share state, and a value that is known elsewhere (RocksDB's, a queue's
//! length) is read at the scrape.

mod counter;
mod exposition;
mod histogram;
mod process;
mod sharded;

pub use counter::Counter;
pub use exposition::{Exposition, Labels};
pub use histogram::{Histogram, HistogramSnapshot};
pub use process::write_process;
