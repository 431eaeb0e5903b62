//! RPC between nodes, and from routers to nodes: gRPC, and plain frames for users' requests.
//!
//! Calls of one [`StreamKind`] to one node share a stream of frames; both ends of it are in
//! [`cloudkv_common::transport`].
//!
//! | file | what it does |
//! | --- | --- |
//! | `authorization` | checks what a caller's certificate allows |
//! | `peers` | the other nodes, their addresses, and the clients to call them |
//! | `handler` | the trait of those who handle the calls |
//! | `server` | accepts connections on the rpc port, and serves them |
//! | `server_context` | what the server needs, and authenticates callers with |
//! | `node_service` | the gRPC service: calls of other nodes and of routers |
//! | `waiting_node` | refuses calls while a new node waits for its address |
//! | `router_streams` | serves the streams on which routers forward users' requests |
//! | `topology_watch` | publishes the topology to routers |
//! | `certificate_status` | status and metrics of the port's certificate |
//! | `runtimes` | runtimes on which streams are served |
//! | `stream_drain` | drains the streams of users' requests before the node stops |

mod authorization;
mod certificate_status;
mod handler;
mod node_service;
mod peers;
mod router_streams;
mod runtimes;
mod server;
mod server_context;
mod stream_drain;
mod topology_watch;
mod waiting_node;

#[cfg(test)]
mod router_streams_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads_tests;
#[cfg(test)]
mod tls_tests;
#[cfg(test)]
mod waiting_node_tests;

pub(crate) use authorization::check_address;
pub(crate) use certificate_status::{certificate_status, write_certificate_metrics};
#[cfg(test)]
use cloudkv_common::transport::Greeting;
pub(crate) use cloudkv_common::transport::tls::{
    Dialer, PeerIdentity, Tls, TlsError, TlsFiles, TlsRole,
};
pub(crate) use cloudkv_common::transport::{
    CallError, PendingReply, RpcClientSettings, StreamKind,
};
pub(crate) use handler::{
    BulkCopyStream, RpcHandler, ScanStream, ShardScanStream, SnapshotAcks, SnapshotFrames,
};
pub(crate) use peers::{Peers, PeersSettings, identify, join};
pub(crate) use runtimes::RpcRuntimes;
pub(crate) use server::serve;
pub(crate) use server_context::RpcServerContext;
pub(crate) use stream_drain::StreamDrain;
pub(crate) use waiting_node::refuse_calls;
