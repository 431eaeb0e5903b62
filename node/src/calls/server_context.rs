//! Builds what the server of the rpc port needs.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;

use super::CallHandlers;
use crate::meta;
use crate::rpc::{RpcRuntimes, RpcServerContext, StreamDrain, Tls};

/// Maximum size of a message between nodes, in bytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Builds the context of the server that passes calls to `handlers`, on `runtimes`. `drain` drains
/// the streams of forwarded requests; with `tls`, callers need a certificate.
pub(crate) fn server_context(
    handlers: CallHandlers,
    drain: StreamDrain,
    tls: Option<Arc<Tls>>,
    runtimes: RpcRuntimes,
) -> RpcServerContext {
    let identity = &handlers.groups.identity;
    RpcServerContext {
        identity: pb::IdentifyResponse {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id.into(),
            region: identity.region.clone(),
            shards: u32::from(identity.shards),
            level: meta::MAX_FEATURE_LEVEL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            removed: false,
            nodes: Vec::new(),
        },
        peers: handlers.groups.peers.clone(),
        handler: Arc::new(handlers),
        runtimes,
        message_bytes: MAX_MESSAGE_BYTES,
        drain,
        tls,
    }
}
