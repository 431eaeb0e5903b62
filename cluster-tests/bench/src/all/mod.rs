//! `all`: measures a node and comparable systems, interleaved, in one run on one machine.
//!
//! All servers run from start to end; one at a time is under load. For each kind of request they
//! take turns, and the cells that decide a ratio are measured several times, so that a noisy
//! machine affects all of them alike.

mod args;
mod cells;
mod plan;
mod report;
mod run;
mod tables;
mod targets;
mod testbed;

pub(crate) use args::Args;
pub(crate) use run::run;
