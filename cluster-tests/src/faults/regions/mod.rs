//! Faults in several regions under load, far from each other, and the checks of what clients
//! observe.
//!
//! Each region has keys that it alone writes: its own clients' calls on them are checked for
//! linearizability, as in a run of one region, and reads in other regions are checked against them.
//! Other keys are written in all regions, by clients that stay and by some that carry their session
//! from region to region: see `lww_checker` for what these may observe. At the end all regions must
//! have converged, byte by byte, and nothing of what was deleted may be left.

mod convergence;
mod isolated_restart;
mod deleted_bucket;
mod context;
mod final_checks;
mod lww_checker;
#[cfg(test)]
mod lww_checker_tests;
mod load;
mod power_losses;
mod run;
mod region_nemesis;
mod session_client;
mod upgrade;
mod region_call;

pub use run::{RegionsOptions, run_regions};
