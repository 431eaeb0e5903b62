//! CloudKV's one wire language: what nodes say to each other, what the Raft log holds, and what
//! is stored. The messages are described in `proto/cloudkv/v1/*.proto`.
//!
//! Stored forms live for ever: a field number is never reused, a field never changes its meaning,
//! and a test decodes the bytes that earlier releases wrote.
//!
//! What is said between programs is said over the connections of [`tls`].

/// Version 1 of all messages.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]
    tonic::include_proto!("cloudkv.v1");
}

pub mod tls;
