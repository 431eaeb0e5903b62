//! Code that CloudKV's programs share: settings, logs and metrics, the HTTP server, the admin port,
//! connections and calls between programs, names, and the mapping of keys to shards.

pub mod admin;
pub mod byte_budget;
pub mod config;
pub mod cors;
pub mod event_stream;
pub mod fd_limit;
pub mod file_watch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod hash;
pub mod hosts;
pub mod names;
pub mod node_id;
pub mod process;
pub mod server;
pub mod telemetry;
pub mod transport;
