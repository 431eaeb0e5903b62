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
pub mod api;
pub mod app;
pub mod background;
pub mod certs;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod geo;
pub mod meta;
pub mod quota;
pub mod raft;
pub mod rpc;
pub mod service;
pub mod shard;
pub mod store;
pub mod types;

pub use cloudkv_common::telemetry;
