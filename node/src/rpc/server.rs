//! The server of the rpc port: accepts connections, and serves each on the runtime of its purpose.

use std::time::Duration;

use cloudkv_common::transport::tls::{Connections, accept};
use cloudkv_proto::v1::node_server::{Node, NodeServer};
use futures_util::future::{join_all, select_all};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;

use super::node_service::NodeService;
use super::router_streams::{router_connection_permits, serve_routers};
use super::runtimes::RpcRuntimes;
use super::server_context::RpcServerContext;

/// Maximum number of concurrent streams and calls on one connection.
const MAX_STREAMS_PER_CONNECTION: u32 = 256;
/// Grace period for streams to end when the node stops.
const SHUTDOWN_GRACE_PERIOD: Duration = Duration::from_secs(1);
/// HTTP/2 keepalive interval. A connection without an answer for twice as long is closed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Keepalive interval of connections that carry bulk data, snapshots among it: keepalive pings wait
/// behind the data.
const BULK_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Serves the rpc port until `stop`, which ends the streams between nodes: they don't end by
/// themselves.
pub(crate) async fn serve(
    listener: TcpListener,
    context: RpcServerContext,
    stop: CancellationToken,
) {
    let RpcRuntimes {
        raft,
        workers,
        general: rest,
    } = &context.runtimes;
    let accepted = {
        let _entered = rest.enter();
        accept(listener, context.tls.clone(), raft.clone(), workers)
    };
    let serve_all = |is_raft_only, keepalive_interval, connections| {
        let service = NodeService {
            context: context.clone(),
            stop: stop.clone(),
            is_raft_only,
        };
        let bounds = ConnectionBounds {
            message_bytes: context.message_bytes,
            keepalive_interval,
        };
        serve_connections(service, bounds, connections, stop.clone())
    };
    let mut tasks = vec![
        raft.spawn(serve_all(true, KEEPALIVE_INTERVAL, accepted.raft)),
        rest.spawn(serve_all(false, BULK_KEEPALIVE_INTERVAL, accepted.others)),
    ];
    let permits = router_connection_permits();
    for ((worker, users), keys) in workers.iter().zip(accepted.users).zip(accepted.forwarded) {
        let routers = serve_routers(users, permits.clone(), context.clone(), stop.clone());
        tasks.push(worker.spawn(routers));
        tasks.push(worker.spawn(serve_all(false, KEEPALIVE_INTERVAL, keys)));
    }
    // The tasks end together. If one fails, the others are aborted: half a server must not look
    // healthy.
    let (ended, _, others) = select_all(tasks).await;
    if let Err(error) = ended {
        tracing::error!(%error, "rpc server task failed");
        others.iter().for_each(JoinHandle::abort);
    }
    join_all(others).await;
}

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionBounds {
    /// Maximum size of a message, in bytes.
    pub message_bytes: usize,
    /// Keepalive interval. A connection without an answer for twice as long is closed.
    pub keepalive_interval: Duration,
}

/// Serves connections, on the current runtime, until `stop`.
pub(super) async fn serve_connections(
    service: impl Node,
    bounds: ConnectionBounds,
    connections: Connections,
    stop: CancellationToken,
) {
    let ConnectionBounds {
        message_bytes: limit,
        keepalive_interval,
    } = bounds;
    let service = NodeServer::new(service)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(limit)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Zstd);
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_keepalive_interval(Some(keepalive_interval))
        .http2_keepalive_timeout(Some(2 * keepalive_interval))
        .add_service(service)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let grace_period_over = async {
        stop.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE_PERIOD).await;
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::error!(%error, "rpc server failed");
        },
        () = grace_period_over => {}
    }
}
