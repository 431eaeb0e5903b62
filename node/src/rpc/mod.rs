//! RPC between nodes, and from routers to nodes: gRPC, and plain frames for users' requests.
//!
//! Calls of one [`StreamKind`] to one node share a stream of frames; its calling end is in
//! [`cloudkv_common::rpc`].
//!
//! | file | what it does |
//! | --- | --- |
//! | `authorization` | checks what a caller's certificate allows |
//! | `peers` | the other nodes, their addresses, and the clients to call them |
//! | `exchange` | handles the calls of one stream |
//! | `server` | serves the rpc port |
//! | `router_streams` | serves the streams on which routers forward users' requests |
//! | `topology_watch` | publishes the topology to routers |

mod authorization;
mod exchange;
mod peers;
mod router_streams;
mod server;
mod topology_watch;

#[cfg(test)]
mod router_streams_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads_tests;
#[cfg(test)]
mod tls_tests;

pub(crate) use authorization::check_address;
#[cfg(test)]
use cloudkv_common::rpc::Greeting;
pub(crate) use cloudkv_common::rpc::{CallError, PendingReply, RpcClientSettings, StreamKind};
pub(crate) use cloudkv_proto::tls::{
    Dialer, PeerIdentity, Tls, TlsError, TlsFiles, TlsRole, host_of,
};
pub(crate) use peers::{Peers, PeersSettings, identify, join};
pub(crate) use server::{
    BulkCopyStream, RpcHandler, RpcRuntimes, RpcServerContext, SnapshotAcks, SnapshotFrames,
    StreamDrain, serve,
};
