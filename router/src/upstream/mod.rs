//! Connections to nodes.
//!
//! | file | contents |
//! | --- | --- |
//! | `pool` | idle connections, per thread |
//! | `counting_stream` | counts the bytes that a connection accepted; readable after a close |
//! | `node_streams` | streams of calls, for requests that are in memory |
//! | `request_body` | the body of a request on its way to a node |
//! | `send` | sends a request once, and classifies its outcome |

mod counting_stream;
mod node_streams;
mod pool;
mod request_body;
mod send;

pub(crate) use node_streams::{BufferedRequest, ConnectSettings, NodeStreams};
pub(crate) use pool::{ConnectionPools, PooledConnection};
pub(crate) use request_body::{BodyMemory, RequestPayload, UpstreamBody};
pub(crate) use send::{NodeRequest, NodeResponse, SendError, SendLimits, send};
