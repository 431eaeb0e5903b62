//! Faults in several regions under load, far from each other, and what no client must see.
//!
//! Each region has keys that it alone writes: what its own clients see of them is checked for
//! linearizability, as in a run of one region, and what clients elsewhere read is checked against it.
//! Other keys are written in all regions, by clients that stay and by some that take their session
//! from region to region: `judge` says what these may see. At the end all regions must hold the same,
//! byte by byte, and nothing of what was deleted.

mod compare;
mod cut_restart;
mod doomed;
mod field;
mod finish;
mod judge;
#[cfg(test)]
mod judge_tests;
mod load;
mod power;
mod run;
mod storm;
mod traveller;
mod upgrade;
mod visit;

pub use run::{RegionsOptions, run_regions};
