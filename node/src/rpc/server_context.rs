//! Dependencies and settings of the server of the rpc port.

use std::sync::Arc;

use cloudkv_common::transport::tls::{PeerIdentity, Tls};
use cloudkv_common::transport::{Greeting, StreamKind};
use cloudkv_proto::v1 as pb;
use tonic::{Request, Status};

use super::authorization::{caller_of, check_node_number};
use super::handler::RpcHandler;
use super::peers::Peers;
use super::runtimes::RpcRuntimes;
use super::stream_drain::StreamDrain;
use crate::types::NodeId;

/// Dependencies and settings of the server.
#[derive(Clone)]
pub(crate) struct RpcServerContext {
    /// Identity of this node.
    pub identity: pb::IdentifyResponse,
    /// Handler of the calls.
    pub handler: Arc<dyn RpcHandler>,
    /// Runtimes on which streams are served.
    pub runtimes: RpcRuntimes,
    /// Maximum size of a message, in bytes.
    pub message_bytes: usize,
    /// Drains the streams of users' requests.
    pub drain: StreamDrain,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Certificates, if callers need one.
    pub tls: Option<Arc<Tls>>,
}

impl RpcServerContext {
    /// Authenticates the caller, and returns the node, the stream kind and the certificate.
    pub(super) fn authenticate<T>(
        &self,
        request: &Request<T>,
    ) -> Result<(NodeId, StreamKind, PeerIdentity), Status> {
        let identity = &self.identity;
        let me = NodeId::from(identity.node_id);
        let (from, kind) = Greeting::from_metadata(request.metadata(), &identity.cluster_id, me)?;
        let caller = caller_of(request)?;
        check_node_number(&caller, from, &self.peers)?;
        Ok((from, kind, caller))
    }
}
