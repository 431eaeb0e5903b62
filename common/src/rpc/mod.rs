//! RPC client: calls to nodes.
//!
//! Calls of one kind to one node share a stream of frames, see [`StreamKind`]: many calls in one
//! message each way, so that neither a call nor its reply costs a message of its own under load.
//!
//! | file | contents |
//! | --- | --- |
//! | `stream_kind` | kinds of streams, and the greeting on each |
//! | `call` | a call that waits for its reply, and its errors |
//! | `client` | the calling end of a stream: a bounded queue |
//! | `connection` | the client's task: connects, sends frames, dispatches replies |
//! | `codec` | the client's transport: gRPC, or plain frames |
//! | `frames` | length-prefixed frames without gRPC |
//! | `headers` | encoding of the headers of a user's request and its response |

mod call;
mod client;
mod codec;
mod connection;
pub mod frames;
pub mod headers;
mod stream_kind;

pub use call::{CallError, PendingReply, timeout_from_millis};
pub use client::{CallQueueBudget, RpcClient, RpcClientSettings};
pub use codec::{with_keep_alive, without_keep_alive};
pub use stream_kind::{Greeting, StreamKind, check_user_greeting};

/// Number of a node.
pub type NodeId = u64;
