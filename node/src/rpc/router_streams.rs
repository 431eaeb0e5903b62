//! Streams on which routers forward users' requests: plain frames, without gRPC.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::rpc::frames::{FrameReader, FrameWriter, split};
use cloudkv_common::rpc::headers::TABLE_VERSION;
use cloudkv_common::rpc::{StreamKind, check_user_greeting};
use cloudkv_proto::tls::{Connections, PeerIdentity, PeerStream};
use cloudkv_proto::v1 as pb;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::transport::server::Connected;

use super::authorization::check_forwarder;
use super::exchange::{CallReader, Disconnected, ReplyWriter, exchange};
use super::server::RpcServerContext;

/// Maximum number of routers' connections: each router has one from each of its threads.
const MAX_ROUTER_CONNECTIONS: usize = 4096;
/// Timeout of a router's greeting.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the checks whether a router has sent a frame, as it does every second.
const LIVENESS_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Number of consecutive checks without a frame after which a router is disconnected.
const MAX_MISSED_CHECKS: u32 = 3;
/// Timeout of sending one frame of replies to a router.
const SEND_TIMEOUT: Duration = Duration::from_secs(6);

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
    let (calls, replies) = split(stream);
    let greeting = tokio::time::timeout(
        GREETING_TIMEOUT,
        accept_greeting(calls, replies, (&context, &caller)),
    )
    .await;
    let (calls, replies, _drain_token) = match greeting {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => return tracing::debug!(%error, "router refused"),
        Err(_) => {
            return tracing::debug!(timeout = ?GREETING_TIMEOUT, "router sent no greeting in time");
        }
    };
    let drain = context.drain.started();
    // A router has no node number.
    let from = (0, StreamKind::Users);
    exchange(from, context.handler, calls, replies, drain).await;
}

/// Reads a router's greeting, and replies whether it is accepted. While the returned token lives, a
/// drain of the node waits for the stream.
async fn accept_greeting(
    mut calls: FrameReader,
    mut replies: FrameWriter,
    (context, caller): (&RpcServerContext, &PeerIdentity),
) -> io::Result<(RouterCalls, RouterReplies, TaskTrackerToken)> {
    let greeting = calls.next::<pb::UserGreeting>().await?;
    let greeting = greeting.ok_or(io::ErrorKind::UnexpectedEof)?;
    // From here on a node that drains waits for the calls that the router will have sent.
    let drain_token = context.drain.streams().token();
    let checked = if context.drain.started().is_cancelled() {
        Err(Status::unavailable("the node is stopping"))
    } else {
        let identity = &context.identity;
        check_user_greeting(&greeting, &identity.cluster_id, identity.node_id)
            .and_then(|()| check_forwarder(caller, &context.peers))
    };
    let welcome = match &checked {
        Ok(()) => pb::UserWelcome {
            headers: TABLE_VERSION,
            ..Default::default()
        },
        Err(refused) => pb::UserWelcome {
            code: i32::from(refused.code()).unsigned_abs(),
            message: refused.message().to_owned(),
            headers: TABLE_VERSION,
        },
    };
    replies.send(&welcome).await?;
    checked.map_err(io::Error::other)?;
    calls.set_max_frame_bytes(context.message_bytes);
    replies.set_max_frame_bytes(context.message_bytes);
    let mut checks = tokio::time::interval(LIVENESS_CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let calls = RouterCalls {
        frames: calls,
        checks,
        missed_checks: 0,
    };
    Ok((calls, RouterReplies(replies), drain_token))
}

/// Calls from a router.
struct RouterCalls {
    frames: FrameReader,
    checks: Interval,
    /// Number of checks since the last frame.
    missed_checks: u32,
}

impl CallReader for RouterCalls {
    async fn next(&mut self) -> Result<Option<pb::CallFrame>, Disconnected> {
        loop {
            tokio::select! {
                frame = self.frames.next() => {
                    self.missed_checks = 0;
                    return frame.map_err(|error| {
                        tracing::debug!(%error, "router connection failed");
                        Disconnected
                    });
                }
                _ = self.checks.tick() => {
                    self.missed_checks += 1;
                    if self.missed_checks > MAX_MISSED_CHECKS {
                        tracing::debug!("router sent no sign of life, disconnecting");
                        return Err(Disconnected);
                    }
                }
            }
        }
    }
}

/// Replies to a router.
struct RouterReplies(FrameWriter);

impl ReplyWriter for RouterReplies {
    async fn send(&mut self, frame: pb::ReplyFrame) -> Result<(), Disconnected> {
        let sent = tokio::time::timeout(SEND_TIMEOUT, self.0.send(&frame)).await;
        sent.is_ok_and(|sent| sent.is_ok())
            .then_some(())
            .ok_or(Disconnected)
    }

    async fn closed(&self) {
        // A disconnect is detected when a frame is read or written.
        std::future::pending().await
    }
}
