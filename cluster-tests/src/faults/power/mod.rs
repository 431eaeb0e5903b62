//! Power that goes away under load: of one node, of two, of all, and what clients must not see.

mod plan;
mod run;

pub use plan::{Cut, Plan};
pub use run::{PowerOptions, run_power};
