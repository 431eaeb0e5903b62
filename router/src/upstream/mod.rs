//! Connections to nodes.
//!
//! | file | what it does |
//! | --- | --- |
//! | `pool` | idle connections, for each thread its own |
//! | `outgoing` | the body of a request as it goes to a node |
//! | `send` | sends a request once, and says what became of it |

mod outgoing;
mod pool;
mod send;

pub use outgoing::{Outgoing, Payload};
pub use pool::{Pools, Sender};
pub use send::{Bounds, Fate, Sent, send};
