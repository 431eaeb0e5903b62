//! Fault injection under load, and the checks of what clients observe.
//!
//! Clients call random nodes and record every call ([`History`]); the [`Nemesis`] meanwhile kills,
//! stops and isolates nodes as a seed decides. Each key's history is then checked for
//! linearizability, the nodes are compared, and all acknowledged writes are read again.

mod aim;
mod call;
mod client;
mod damage;
mod directory;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_tests;
mod harm;
mod kind;
mod ledger;
mod limits;
mod line;
mod nemesis;
mod noise;
mod plain;
mod plain_load;
mod power;
mod regions;
mod report;
mod run;
mod schedule;
mod settle;
mod slow_snapshot;
mod version;
mod workload;

pub use aim::Aim;
pub use call::{Action, Outcome, Record, to_ops};
pub use kind::{Counts, Kind};
pub use ledger::{KeyName, Ledger, Tally};
pub use line::{Line, Reply};
pub use nemesis::Nemesis;
pub use plain::{Plain, PlainError, PlainResult};
pub use plain_load::{PlainLoad, PlainOutcome, Work, fill};
pub use power::{Cut, DiskFailure, FailingCalls, Plan, PowerOptions, run_power};
pub use regions::{RegionsOptions, run_regions};
pub use report::Report;
pub use run::{RunOptions, run};
pub use schedule::{Schedule, Step};
pub use version::Version;
