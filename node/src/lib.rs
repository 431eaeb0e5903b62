//! Storage node of CloudKV, a geo-distributed key/value store with an HTTP API.
//!
//! `ARCHITECTURE.md` at the top of the repository is the map. In short, each module may use those
//! below it:
//!
//! ```text
//! fuzzing                fuzz targets, in tests and for fuzz/ only
//! app                    builds a node, serves, drains it
//! event_log              logs what happens around the node
//! calls                  answers other nodes and routers
//! api        admin       HTTP for users, and for the operator
//! certs                  creates certificates
//! backup                 backups: how they are stored, and where
//! service    geo         requests; replication between regions
//! cluster                identity, membership, placement
//! meta       shard       the two replicated state machines
//! raft                   openraft on this node's storage
//! rpc                    gRPC between nodes
//! store                  RocksDB
//! quota background config clock types
//! ```

pub mod admin;
mod api;
pub mod app;
mod background;
mod backup;
mod calls;
pub mod certs;
mod clock;
mod cluster;
pub mod config;
mod event_log;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
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
