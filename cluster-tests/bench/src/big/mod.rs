//! `big`: checks a node with ten million keys: memory, speed, restart after `kill -9`, and that
//! every value is still there.

mod args;
mod report;
mod run;
mod speed;
mod trial;

pub(crate) use args::Args;
pub(crate) use run::run;
