//! What nodes say to each other, and routers to them: gRPC, and frames alone for users' requests.
//!
//! Calls of one kind to one node share a stream of frames, a [`Lane`]; its calling end is in
//! [`cloudkv_common::rpc`].
//!
//! | file | what it does |
//! | --- | --- |
//! | `callers` | what the certificate of the other end allows |
//! | `peers` | the other nodes and where they are; the way to call one |
//! | `exchange` | the answering end of a lane |
//! | `server` | the port for other nodes |
//! | `users` | the lane for users' requests that routers bring |
//! | `watch` | what routers are told |

mod callers;
mod exchange;
mod peers;
mod server;
mod users;
mod watch;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads_tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod users_tests;

pub use callers::check_address;
pub use cloudkv_common::rpc::{CallError, Greeting, Lane, LinkSettings, PendingReply};
pub use cloudkv_proto::tls::{Caller, Dialer, Holder, Tls, TlsError, TlsFiles, host_of};
pub use peers::{Peers, PeersSettings, identify, join};
pub use server::{Answering, Frames, Handler, Leaving, Runtimes, SnapshotAcks, Walk, serve};
