//! gRPC between nodes.
//!
//! Calls of one kind to one node share a stream of frames, a [`Lane`]: many calls in one message
//! each way, so that neither a call nor its answer costs a message of its own under load.
//!
//! | file | what it does |
//! | --- | --- |
//! | `lane` | the lanes, and who greets whom on them |
//! | `call` | a call that waits for its reply, and why it may get none |
//! | `link` | the calling end of a lane: connects, sends frames, hands out replies |
//! | `peers` | the other nodes and where they are; the way to call one |
//! | `exchange` | the answering end of a lane |
//! | `server` | the port for other nodes |
//! | `watch` | what routers are told |

mod call;
mod exchange;
mod lane;
mod link;
mod peers;
mod server;
mod watch;

#[cfg(test)]
mod tests;

pub use call::{CallError, PendingReply};
pub use lane::{Greeting, Lane};
pub use peers::{LinkSettings, Peers, PeersSettings, identify, join};
pub use server::{Answering, Frames, Handler, Leaving, Runtimes, serve};
