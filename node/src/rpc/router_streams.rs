//! Streams on which routers forward users' requests: plain frames, without gRPC.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::transport::tls::{Connections, PeerIdentity, PeerStream};
use cloudkv_common::transport::{GreetedConnection, StreamHandler, UserStream};
use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::transport::server::Connected;

use super::authorization::check_forwarder;
use super::handler::RpcHandler;
use super::server_context::RpcServerContext;
use crate::types::NodeId;

/// Maximum number of routers' connections: each router has one from each of its threads.
const MAX_ROUTER_CONNECTIONS: usize = 4096;
/// Timeout of a router's greeting.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns permits for the connections of routers on all threads.
pub(super) fn router_connection_permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_ROUTER_CONNECTIONS))
}

/// Serves routers, on the current runtime, until `stop`.
pub(super) async fn serve_routers(
    mut connections: Connections,
    permits: Arc<Semaphore>,
    context: RpcServerContext,
    stop: CancellationToken,
) {
    while let Some(Some(Ok(stream))) = stop.run_until_cancelled(connections.next()).await {
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::warn!(
                limit = MAX_ROUTER_CONNECTIONS,
                "router connection refused: too many connections"
            );
            continue;
        };
        let served = serve_router(stream, context.clone(), permit);
        let served = stop.clone().run_until_cancelled_owned(served);
        tokio::spawn(served);
    }
}

async fn serve_router(
    stream: PeerStream,
    context: RpcServerContext,
    _permit: OwnedSemaphorePermit,
) {
    let caller = stream.connect_info();
    let greeting = accept_greeting(stream, &context, &caller);
    let (stream, _drain_token) = match tokio::time::timeout(GREETING_TIMEOUT, greeting).await {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => return tracing::debug!(%error, "router refused"),
        Err(_) => {
            return tracing::debug!(timeout = ?GREETING_TIMEOUT, "router sent no greeting in time");
        }
    };
    let drain = context.drain.started();
    stream.serve(UserRequests(context.handler), drain).await;
}

/// Reads a router's greeting, and replies whether it is accepted. While the returned token lives, a
/// drain of the node waits for the stream.
async fn accept_greeting(
    stream: PeerStream,
    context: &RpcServerContext,
    caller: &PeerIdentity,
) -> io::Result<(UserStream, TaskTrackerToken)> {
    let connection = GreetedConnection::read(stream).await?;
    // From here on a node that drains waits for the calls that the router will have sent.
    let drain_token = context.drain.streams().token();
    let accepted = if context.drain.is_started() {
        Err(Status::unavailable("the node is stopping"))
    } else {
        let identity = &context.identity;
        connection
            .check(&identity.cluster_id, NodeId::from(identity.node_id))
            .and_then(|()| check_forwarder(caller, &context.peers))
    };
    let stream = connection.reply(accepted, context.message_bytes).await?;
    Ok((stream, drain_token))
}

/// Handler of the calls on the stream of a router: users' requests, and nothing else.
struct UserRequests(Arc<dyn RpcHandler>);

impl StreamHandler for UserRequests {
    type Output = pb::UserReply;

    fn start(
        &self,
        id: u64,
        body: call::Body,
        _timeout: Duration,
    ) -> Option<BoxFuture<'static, pb::UserReply>> {
        match body {
            call::Body::User(request) => Some(self.0.handle_user_request(request, id)),
            _ => None,
        }
    }

    fn reply_body(output: pb::UserReply) -> reply::Body {
        reply::Body::User(output)
    }
}
