//! Connections to nodes.
//!
//! | file | what it does |
//! | --- | --- |
//! | `pool` | idle connections, for each thread its own |
//! | `lane` | a stream of calls, for requests that are in memory |
//! | `outgoing` | the body of a request as it goes to a node |
//! | `send` | sends a request once, and says what became of it |

mod lane;
mod outgoing;
mod pool;
mod send;

pub use lane::{Lanes, Reach, Whole};
pub use outgoing::{Outgoing, Payload, Share};
pub use pool::{Pools, Sender};
pub use send::{Bounds, Fate, Sent, send};
