//! Connections to nodes.
//!
//! | file | contents |
//! | --- | --- |
//! | `pool` | idle connections, per thread |
//! | `counting_stream` | counts the bytes that a connection accepted; readable after a close |
//! | `node_streams` | streams of calls, for requests that are in memory |
//! | `request_body` | the body of a request on its way to a node |
//! | `send` | sends a request once, and classifies its outcome |

mod lane;
mod outgoing;
mod pool;
mod send;
mod stream;

pub use lane::{Lanes, Reach, Whole};
pub use outgoing::{Outgoing, Payload, Share};
pub use pool::{Pools, Sender};
pub use send::{Bounds, Fate, Sent, Try, send};
