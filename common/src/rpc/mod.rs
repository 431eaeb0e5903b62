//! Calling nodes over gRPC.
//!
//! Calls of one kind to one node share a stream of frames, a [`Lane`]: many calls in one message
//! each way, so that neither a call nor its answer costs a message of its own under load.
//!
//! | file | what it does |
//! | --- | --- |
//! | `lane` | the lanes, and who greets whom on them |
//! | `call` | a call that waits for its reply, and why it may get none |
//! | `link` | the calling end of a lane: connects, sends frames, hands out replies |
//! | `user` | a user's request and its answer as they travel |

mod call;
mod lane;
mod link;
pub mod user;

pub use call::{CallError, PendingReply, time_left};
pub use lane::{Greeting, Lane};
pub use link::{Link, LinkSettings, bounded};

/// The number of a node.
pub type NodeId = u64;
