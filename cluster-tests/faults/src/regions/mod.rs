//! Faults in several regions under load, far from each other, and the checks of what clients
//! observe.
//!
//! Each region has keys that it alone writes: its own clients' calls on them are checked for
//! linearizability, as in a run of one region, and reads in other regions are checked against them.
//! Other keys are written in all regions, by clients that stay and by some that carry their session
//! from region to region: see `lww_checker` for what these may observe. At the end all regions must
//! have converged, byte by byte, and nothing of what was deleted may be left.

mod call_index;
mod context;
mod convergence;
mod deleted_bucket;
mod fault_injection;
mod fault_results;
mod final_checks;
mod isolated_restart;
mod late_region;
mod load;
mod lww_checker;
#[cfg(test)]
mod lww_checker_tests;
mod options;
mod power_losses;
mod region_call;
mod region_nemesis;
mod remote_reader;
mod run;
mod session_client;
mod upgrade;

pub use options::RegionsOptions;
pub use run::run_regions;
