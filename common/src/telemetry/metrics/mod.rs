//! Metrics: counters and histograms that threads don't fight over, and their Prometheus text.
//!
//! There is no registry: whoever owns a metric keeps it as a field, counts on it without a look-up,
//! and writes it into an [`Exposition`] when the operator's port is asked. So a metric's life is
//! its owner's, tests don't share state, and a value that is known elsewhere (RocksDB's, a queue's
//! length) is read when it is asked for.

mod counter;
mod exposition;
mod histogram;
mod process;
mod sharded;

pub use counter::Counter;
pub use exposition::{Exposition, Labels};
pub use histogram::{Histogram, HistogramSnapshot};
pub use process::write_process;
