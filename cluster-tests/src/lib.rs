//! Support for tests that start real CloudKV processes and talk to them from outside.
//!
//! Nothing here depends on the node's code: a test sees what a user sees, which is the binary, its
//! flags, its ports and its data directory.
//!
//! A helper that can't go on panics with the state that it saw, as an assertion in a test would:
//! the caller would only unwrap a `Result` one line later, with less to report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod checker;
pub mod faults;
pub mod harness;
pub mod postman;
pub mod power;
pub mod region;
pub mod rng;

pub use harness::{
    HttpResponse, ApiClient, Bucket, ApiRequest, RawConnection, RawOutcome, H2Event, H2Connection, NodeLease, Node, NodeOptions,
    RawRequest, TrafficRecorder, Router, SharedNode, SmallDisk, PublicEndpoint, encode_chunk, eventually, resident_bytes,
    try_eventually,
};
