//! Support for tests that start real CloudKV processes and talk to them from outside.
//!
//! Nothing here knows the node's code: what a test sees is what a user sees, which is the binary,
//! its flags, its ports and its data directory.
//!
//! A helper that can't go on panics with what it saw, as an assertion in a test would: a `Result`
//! would only be unwrapped one line later, with less to say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod checker;
pub mod faults;
pub mod harness;
pub mod postman;
pub mod power;
pub mod region;
pub mod rng;

pub use harness::{
    Answer, Api, Bucket, Call, Connection, Ending, Event, H2Connection, Lease, Node, NodeOptions,
    RawRequest, Recorder, Router, SharedNode, SmallDisk, Target, chunk, eventually, resident_bytes,
    try_eventually,
};
