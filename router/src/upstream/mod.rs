//! Connections to nodes.
//!
//! | file | what it does |
//! | --- | --- |
//! | `pool` | idle connections, for each thread its own |
//! | `stream` | what a connection accepted, and what can be read of it when it was closed |
//! | `lane` | a stream of calls, for requests that are in memory |
//! | `outgoing` | the body of a request as it goes to a node |
//! | `send` | sends a request once, and says what became of it |

mod lane;
mod outgoing;
mod pool;
mod send;
mod stream;

pub use lane::{Lanes, Reach, Whole};
pub use outgoing::{Outgoing, Payload, Share};
pub use pool::{Pools, Sender};
pub use send::{Bounds, Fate, Sent, Try, send};
