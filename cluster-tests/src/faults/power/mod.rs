//! Power that goes away under load: of one node, of several, of whole regions, of all, with disks
//! that fail before; and what clients must not see.

mod cutter;
mod failure;
mod plan;
mod run;

pub(super) use cutter::Cutter;
pub use failure::{DiskFailure, FailingCalls};
pub use plan::{Cut, Plan};
pub(super) use run::SMALL;
pub use run::{PowerOptions, run_power};
