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
    ApiClient, ApiRequest, Bucket, H2Connection, H2Event, HttpResponse, Node, NodeLease,
    NodeOptions, PublicEndpoint, RawConnection, RawOutcome, RawRequest, Router, SharedNode,
    SmallDisk, TrafficRecorder, encode_chunk, eventually, resident_bytes, try_eventually,
};
