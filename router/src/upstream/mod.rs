//! Connections to nodes.
//!
//! | file | contents |
//! | --- | --- |
//! | `pool` | idle connections, per thread |
//! | `counting_stream` | counts the bytes that a connection accepted; readable after a close |
//! | `node_streams` | streams of calls, for requests that are in memory |
//! | `request_body` | the body of a request on its way to a node |
//! | `send` | sends a request once, and classifies its outcome |

mod node_streams;
mod request_body;
mod pool;
mod send;
mod counting_stream;

pub use node_streams::{NodeStreams, ConnectSettings, BufferedRequest};
pub use request_body::{UpstreamBody, RequestPayload, BodyMemory};
pub use pool::{ConnectionPools, PooledConnection};
pub use send::{SendLimits, SendError, NodeResponse, NodeRequest, send};
