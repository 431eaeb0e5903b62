//! Storage node of CloudKV, a geo-distributed key/value store with an HTTP API.
//!
//! `ARCHITECTURE.md` at the top of the repository is the map. In short, each module may use those
//! below it:
//!
//! ```text
//! app                    assembles a node, runs it, stops it
//! api        admin       HTTP for users, and for the operator
//! certs                  creates certificates
//! service                implements requests
//! cluster                identity, membership, placement
//! meta       shard       the two replicated state machines
//! raft       rpc         openraft and gRPC
//! store                  RocksDB
//! quota background clock config telemetry types
//! ```

pub mod admin;
mod api;
pub mod app;
mod background;
pub mod certs;
mod clock;
mod cluster;
pub mod config;
mod geo;
mod meta;
mod quota;
mod raft;
mod rpc;
mod service;
mod shard;
mod store;
mod types;

pub use cloudkv_common::telemetry;
