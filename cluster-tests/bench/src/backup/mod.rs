//! `backup`: measures a backup of a region of three nodes, its restore into a new one, and the
//! latency of other users before and while backups run.
//!
//! All keys of the restored region are compared with those of the first one: value, type, metadata,
//! expiry and the time of the version.

mod args;
mod key_digests;
mod report;
mod run;

pub(crate) use args::Args;
pub(crate) use run::run;
