//! Calling nodes.
//!
//! Calls of one kind to one node share a stream of frames, a [`Lane`]: many calls in one message
//! each way, so that neither a call nor its answer costs a message of its own under load.
//!
//! | file | what it does |
//! | --- | --- |
//! | `lane` | the lanes, and who greets whom on them |
//! | `call` | a call that waits for its reply, and why it may get none |
//! | `link` | the calling end of a lane |
//! | `line` | its task: connects, sends frames, hands out replies |
//! | `wire` | its stream: of gRPC, or of frames alone |
//! | `frames` | frames alone, without gRPC |
//! | `headers` | headers of a user's request and its answer as they travel |

mod call;
pub mod frames;
pub mod headers;
mod lane;
mod line;
mod link;
mod wire;

pub use call::{CallError, PendingReply, time_left};
pub use lane::{Greeting, Lane, check_router};
pub use link::{Link, LinkSettings, Room};
pub use wire::{bounded, unwatched};

/// The number of a node.
pub type NodeId = u64;
