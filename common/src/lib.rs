//! What CloudKV's programs share: settings, logs and metrics, serving HTTP, the operator's port,
//! calling nodes, networks, names, and which shard a key belongs to.

pub mod admin;
pub mod config;
pub mod files;
pub mod hash;
pub mod names;
pub mod network;
pub mod process;
pub mod rpc;
pub mod server;
pub mod telemetry;
