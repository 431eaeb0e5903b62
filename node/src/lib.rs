//! CloudKV storage node.
pub mod clock;
pub mod meta;
pub mod shard;
pub mod service;
pub mod store;
pub mod raft;
pub mod types;
