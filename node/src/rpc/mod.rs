//! gRPC between nodes.
//!
//! Calls of one kind to one node share a stream of frames, a [`Lane`]; its calling end is in
//! [`cloudkv_common::rpc`].
//!
//! | file | what it does |
//! | --- | --- |
//! | `peers` | the other nodes and where they are; the way to call one |
//! | `exchange` | the answering end of a lane |
//! | `server` | the port for other nodes |
//! | `watch` | what routers are told |

mod exchange;
mod peers;
mod server;
mod watch;

#[cfg(test)]
mod tests;

pub use cloudkv_common::rpc::{CallError, Greeting, Lane, LinkSettings, PendingReply};
pub use peers::{Peers, PeersSettings, identify, join};
pub use server::{Answering, Frames, Handler, Leaving, Runtimes, Walk, serve};
