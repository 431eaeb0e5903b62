//! The port for other nodes.

use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::node_server::{Node, NodeServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::cluster::Identity;
use crate::shard::LEVEL;

/// Time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at once on one connection.
const CALLS_PER_CONNECTION: usize = 256;
/// Size of a request, in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// Serves other nodes until `stop`.
pub async fn serve(listener: TcpListener, identity: Identity, stop: CancellationToken) {
    let service = NodeServer::new(Introduction { identity }).max_decoding_message_size(MAX_REQUEST);
    let served = Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "serve other nodes");
    }
}

struct Introduction {
    identity: Identity,
}

#[tonic::async_trait]
impl Node for Introduction {
    async fn identify(
        &self,
        _request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        Ok(Response::new(pb::IdentifyResponse {
            cluster_id: self.identity.cluster_id.clone(),
            node_id: self.identity.node_id,
            region: self.identity.region.clone(),
            shards: u32::from(self.identity.shards),
            level: LEVEL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
