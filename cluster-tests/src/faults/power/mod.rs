//! Power losses under load: of one node, of several, of whole regions, of all, with disks that fail
//! before; and the checks of what clients observe.

mod cutter;
mod failure;
mod plan;
mod run;

pub(super) use cutter::Cutter;
pub use failure::{DiskFailure, FailingCalls};
pub use plan::{Cut, Plan};
pub(super) use run::SMALL;
pub use run::{PowerOptions, run_power};
