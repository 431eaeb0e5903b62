//! Streams on which routers forward users' requests: plain frames, without gRPC.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::rpc::frames::{FrameReader, FrameWriter, split};
use cloudkv_common::rpc::headers::VERSION;
use cloudkv_common::rpc::{Lane, check_router};
use cloudkv_proto::tls::{Caller, Connections, Stream};
use cloudkv_proto::v1 as pb;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::transport::server::Connected;

use super::callers::check_bringer;
use super::exchange::{Calls, Gone, Replies, exchange};
use super::server::Answering;

/// Maximum number of routers' connections: each router has one from each of its threads.
const CONNECTIONS: usize = 4096;
/// Timeout of a router's greeting.
const GREETS_WITHIN: Duration = Duration::from_secs(5);
/// Interval of the checks whether a router has sent a frame, as it does every second.
const LOOK: Duration = Duration::from_secs(2);
/// Number of consecutive checks without a frame after which a router is disconnected.
const GIVEN_UP_AFTER: u32 = 3;
/// Timeout of sending one frame of replies to a router.
const TAKES_WITHIN: Duration = Duration::from_secs(6);

/// Returns permits for the connections of routers on all threads.
pub(super) fn places_for_routers() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

/// Serves routers, on the current runtime, until `stop`.
pub(super) async fn serve_routers(
    mut connections: Connections,
    permits: Arc<Semaphore>,
    context: Answering,
    stop: CancellationToken,
) {
    while let Some(Some(Ok(stream))) = stop.run_until_cancelled(connections.next()).await {
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            tracing::warn!(limit = CONNECTIONS, "router connection refused: too many connections");
            continue;
        };
        let served = serve(stream, context.clone(), permit);
        let served = stop.clone().run_until_cancelled_owned(served);
        tokio::spawn(served);
    }
}

async fn serve(stream: Stream, context: Answering, _permit: OwnedSemaphorePermit) {
    let caller = stream.connect_info();
    let (calls, replies) = split(stream);
    let greeting =
        tokio::time::timeout(GREETS_WITHIN, greet(calls, replies, (&context, &caller))).await;
    let (calls, replies, _drain_token) = match greeting {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => return tracing::debug!(%error, "router refused"),
        Err(_) => {
            return tracing::debug!(timeout = ?GREETS_WITHIN, "router sent no greeting in time");
        }
    };
    let drain = context.leaving.begun();
    // A router has no node number.
    let from = (0, Lane::Users);
    exchange(from, context.handler, calls, replies, drain).await;
}

/// Reads a router's greeting, and replies whether it is accepted. While the returned token lives, a
/// drain of the node waits for the stream.
async fn greet(
    mut calls: FrameReader,
    mut replies: FrameWriter,
    (context, caller): (&Answering, &Caller),
) -> io::Result<(FromRouter, ToRouter, TaskTrackerToken)> {
    let greeting = calls.next::<pb::UserGreeting>().await?;
    let greeting = greeting.ok_or(io::ErrorKind::UnexpectedEof)?;
    // From here on a node that drains waits for the calls that the router will have sent.
    let drain_token = context.leaving.streams().token();
    let checked = if context.leaving.begun().is_cancelled() {
        Err(Status::unavailable("the node is stopping"))
    } else {
        let identity = &context.identity;
        check_router(&greeting, &identity.cluster_id, identity.node_id)
            .and_then(|()| check_bringer(caller, &context.peers))
    };
    let welcome = match &checked {
        Ok(()) => pb::UserWelcome {
            headers: VERSION,
            ..Default::default()
        },
        Err(refused) => pb::UserWelcome {
            code: i32::from(refused.code()).unsigned_abs(),
            message: refused.message().to_owned(),
            headers: VERSION,
        },
    };
    replies.send(&welcome).await?;
    checked.map_err(io::Error::other)?;
    calls.allow(context.message_bytes);
    replies.allow(context.message_bytes);
    let mut checks = tokio::time::interval(LOOK);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let calls = FromRouter {
        frames: calls,
        looks: checks,
        silent: 0,
    };
    Ok((calls, ToRouter(replies), drain_token))
}

/// Calls from a router.
struct FromRouter {
    frames: FrameReader,
    looks: Interval,
    /// Number of checks since the last frame.
    silent: u32,
}

impl Calls for FromRouter {
    async fn next(&mut self) -> Result<Option<pb::CallFrame>, Gone> {
        loop {
            tokio::select! {
                frame = self.frames.next() => {
                    self.silent = 0;
                    return frame.map_err(|error| {
                        tracing::debug!(%error, "router connection failed");
                        Gone
                    });
                }
                _ = self.looks.tick() => {
                    self.silent += 1;
                    if self.silent > GIVEN_UP_AFTER {
                        tracing::debug!("router sent no sign of life, disconnecting");
                        return Err(Gone);
                    }
                }
            }
        }
    }
}

/// Replies to a router.
struct ToRouter(FrameWriter);

impl Replies for ToRouter {
    async fn send(&mut self, frame: pb::ReplyFrame) -> Result<(), Gone> {
        let sent = tokio::time::timeout(TAKES_WITHIN, self.0.send(&frame)).await;
        sent.is_ok_and(|sent| sent.is_ok())
            .then_some(())
            .ok_or(Gone)
    }

    async fn closed(&self) {
        // A disconnect is detected when a frame is read or written.
        std::future::pending().await
    }
}
