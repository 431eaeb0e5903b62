//! Power losses under load: of one node, of several, of whole regions, of all, with disks that fail
//! before; and the checks of what clients observe.

mod disk_failure;
mod plan;
mod power_nemesis;
mod run;

pub use disk_failure::{DiskFailure, FailingCalls};
pub use plan::{PowerLoss, PowerLossPlan};
pub(super) use power_nemesis::PowerNemesis;
pub(super) use run::SMALL_FILE_ARGS;
pub use run::{PowerOptions, run_power};
