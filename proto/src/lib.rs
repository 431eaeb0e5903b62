//! CloudKV's protocol: messages between nodes, entries of the Raft log, and stored rows. They are
//! defined in `proto/cloudkv/v1/*.proto`.
//!
//! Stored formats are permanent: a field number is never reused, a field never changes its meaning,
//! and a test decodes the bytes that earlier releases wrote.

/// Version 1 of all messages.
pub mod v1 {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::too_many_lines,
        clippy::unwrap_used,
        clippy::expect_used
    )]
    tonic::include_proto!("cloudkv.v1");
}
