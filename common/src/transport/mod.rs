//! Connections and calls between the programs of a cluster: TLS, dialling, framing, and both ends
//! of streams of calls.
//!
//! Calls of one purpose to one node share a stream of frames: many calls in one message each way,
//! so that neither a call nor its reply costs a message of its own under load. Between nodes the
//! streams are gRPC, of a [`StreamKind`] each; a router's users' requests go as plain [`frames`].
//!
//! | file | contents |
//! | --- | --- |
//! | `client/` | calling end of a stream |
//! | `server/` | answering end of a stream |
//! | `stream_kind` | protocols and kinds of streams, and the greeting on each |
//! | `frames` | length-prefixed frames without gRPC |
//! | `headers/` | encoding of the headers of a user's request and its response |
//! | `tls/` | connecting and accepting, with certificates or without |

mod client;
pub mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod headers;
mod server;
mod stream_kind;
pub mod tls;

pub use client::{
    CallError, PendingReply, RpcClient, RpcClientSettings, with_keep_alive, without_keep_alive,
};
pub use server::{GreetedConnection, StreamHandler, UserStream, serve_grpc_stream};
pub use stream_kind::{Greeting, StreamKind, StreamProtocol};
