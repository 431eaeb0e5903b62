//! Code that CloudKV's programs share: settings, logs and metrics, the HTTP server, the admin port,
//! the RPC client, networks, names, and the mapping of keys to shards.

pub mod admin;
pub mod config;
pub mod fd_limit;
pub mod hash;
pub mod names;
pub mod network;
pub mod process;
pub mod rpc;
pub mod server;
pub mod telemetry;
