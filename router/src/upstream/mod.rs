//! Nodes and the connections to them.
//!
//! | file | contents |
//! | --- | --- |
//! | `node` | a node: addresses, connections, health and round trip |
//! | `pool` | idle connections, per thread |
//! | `counting_stream` | counts the bytes that a connection accepted; readable after a close |
//! | `reason_log` | when a changed reason of a lasting failure is logged |
//! | `node_streams` | streams of calls, for requests that are in memory |
//! | `request_body` | the body of a request on its way to a node |
//! | `send` | sends a request once, and classifies its outcome |
//! | `send_error` | why a request has no response, and whether it may have been executed |

mod counting_stream;
mod node;
mod node_streams;
mod pool;
mod reason_log;
mod request_body;
mod send;
mod send_error;

pub(crate) use node::Node;
pub(crate) use node_streams::{BufferedRequest, ConnectSettings};
pub(crate) use pool::PooledConnection;
pub(crate) use reason_log::ReasonLog;
pub(crate) use request_body::{BodyMemory, PayloadRest, RequestPayload, UpstreamBody};
pub(crate) use send::{NodeRequest, NodeResponse, SendLimits, send};
pub(crate) use send_error::SendError;
