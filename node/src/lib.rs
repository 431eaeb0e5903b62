//! The storage node of CloudKV, a geo-distributed key/value store with an HTTP API.
//!
//! `ARCHITECTURE.md` at the top of the repository is the map. In short, each module may use those
//! below it:
//!
//! ```text
//! assembly               puts a node together, runs it, stops it
//! api        admin       HTTP for users, and for the operator
//! certs                  makes certificates for those who have none
//! service                what a request means
//! cluster                who the node is
//! meta       shard       the two replicated state machines
//! raft       rpc         openraft and gRPC
//! store                  RocksDB
//! budget clock config pace telemetry types
//! ```

pub mod admin;
pub mod api;
pub mod assembly;
pub mod budget;
pub mod certs;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod geo;
pub mod meta;
pub mod pace;
pub mod raft;
pub mod rpc;
pub mod service;
pub mod shard;
pub mod store;
pub mod types;

pub use cloudkv_common::telemetry;
