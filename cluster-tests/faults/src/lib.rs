//! Fault injection under load, and the checks of what clients observe.
//!
//! Clients call random nodes and record every call ([`History`]); the [`Nemesis`] meanwhile kills,
//! stops and isolates nodes as a seed decides. Each key's history is then checked for
//! linearizability, the nodes are compared, and all acknowledged writes are read again.
//!
//! A check that fails panics with what was observed, as an assertion in a test would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answer;
mod backups;
mod batch;
mod bucket_list;
mod call_record;
pub mod checker;
mod disk_damage;
#[cfg(test)]
mod fake_server;
#[cfg(test)]
mod fake_server_tests;
#[cfg(test)]
mod fake_store;
mod fault_kind;
mod history;
mod history_checker;
mod key_limits;
mod key_list;
mod nemesis;
mod node_faults;
mod panics;
mod power;
mod progress;
mod recording_client;
mod regions;
mod report;
mod request;
mod run;
mod schedule;
mod slow_snapshot;
mod target;
mod version;
mod version_uniqueness;
mod watch;
mod workload;
mod workload_client;

pub use call_record::{Action, CallRecord, Outcome, to_register_ops};
pub use fault_kind::{FaultCounts, FaultKind, NetworkFault};
pub use history::{History, KeyName, OutcomeCounts};
pub use nemesis::Nemesis;
pub use power::{DiskFailure, FailingCalls, PowerLoss, PowerLossPlan, PowerOptions, run_power};
pub use regions::{RegionsOptions, run_regions};
pub use report::Report;
pub use run::{RunOptions, run};
pub use schedule::{FaultSchedule, FaultStep};
pub use target::FaultTarget;
pub use version::Version;
