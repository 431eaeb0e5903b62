//! Fault injection under load, and the checks of what clients observe.
//!
//! Clients call random nodes and record every call ([`History`]); the [`Nemesis`] meanwhile kills,
//! stops and isolates nodes as a seed decides. Each key's history is then checked for
//! linearizability, the nodes are compared, and all acknowledged writes are read again.

mod target;
mod call_record;
mod recording_client;
mod disk_damage;
mod bucket_list;
#[cfg(test)]
mod fake_server;
#[cfg(test)]
mod fake_server_tests;
mod node_faults;
mod fault_kind;
mod history;
mod key_limits;
mod node_connection;
mod nemesis;
mod incompressible;
mod plain_client;
mod plain_load;
mod power;
mod regions;
mod report;
mod run;
mod schedule;
mod history_checker;
mod slow_snapshot;
mod version;
mod workload;

pub use target::FaultTarget;
pub use call_record::{Action, Outcome, CallRecord, to_register_ops};
pub use fault_kind::{FaultCounts, FaultKind};
pub use history::{KeyName, History, OutcomeCounts};
pub use node_connection::{NodeConnection, ExchangeOutcome};
pub use nemesis::Nemesis;
pub use plain_client::{PlainClient, PlainError, PlainResult};
pub use plain_load::{PlainLoad, PlainLoadResult, LoadPattern, fill};
pub use power::{PowerLoss, DiskFailure, FailingCalls, PowerLossPlan, PowerOptions, run_power};
pub use regions::{RegionsOptions, run_regions};
pub use report::Report;
pub use run::{RunOptions, run};
pub use schedule::{FaultSchedule, FaultStep};
pub use version::Version;
