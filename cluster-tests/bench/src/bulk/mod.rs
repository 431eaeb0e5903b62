//! `bulk`: measures exports and imports next to the writes of `load-keys`, over the same number of
//! keys in one run: rates, processor time, and memory of the node that serves them; and the latency
//! of other users meanwhile.
//!
//! What was exported is imported into another bucket, and that is exported again: the numbers of
//! keys must be the same.

mod args;
mod report;
mod run;

pub(crate) use args::Args;
pub(crate) use run::run;
