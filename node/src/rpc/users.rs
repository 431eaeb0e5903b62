//! The lane for users' requests that routers bring: frames alone, without gRPC.

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

/// Connections at once: one for each thread of each router.
const CONNECTIONS: usize = 4096;
/// Time for a router to greet.
const GREETS_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked at whether a router still says something, as it does every second.
const LOOK: Duration = Duration::from_secs(2);
/// A router that says nothing for so many looks is given up.
const GIVEN_UP_AFTER: u32 = 3;
/// Time for a router to take answers.
const TAKES_WITHIN: Duration = Duration::from_secs(6);

/// As many as there may be on all threads.
pub(super) fn places_for_routers() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

/// Serves routers, on the current runtime.
pub(super) async fn serve_routers(
    mut connections: Connections,
    places: Arc<Semaphore>,
    answering: Answering,
    stop: CancellationToken,
) {
    while let Some(Some(Ok(stream))) = stop.run_until_cancelled(connections.next()).await {
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(most = CONNECTIONS, "too many connections of routers");
            continue;
        };
        let served = serve(stream, answering.clone(), place);
        let served = stop.clone().run_until_cancelled_owned(served);
        tokio::spawn(served);
    }
}

async fn serve(stream: Stream, answering: Answering, _place: OwnedSemaphorePermit) {
    let bringer = stream.connect_info();
    let (calls, replies) = split(stream);
    let greeted =
        tokio::time::timeout(GREETS_WITHIN, greet(calls, replies, (&answering, &bringer))).await;
    let (calls, replies, _waited_for) = match greeted {
        Ok(Ok(welcome)) => welcome,
        Ok(Err(error)) => return tracing::debug!(%error, "refused a router"),
        Err(_) => return tracing::debug!("a router that doesn't greet"),
    };
    let leave = answering.leaving.begun();
    // A router has no number.
    let from = (0, Lane::Users);
    exchange(from, answering.handler, calls, replies, leave).await;
}

/// Reads who greets, and says whether it is welcome.
async fn greet(
    mut calls: FrameReader,
    mut replies: FrameWriter,
    (answering, bringer): (&Answering, &Caller),
) -> io::Result<(FromRouter, ToRouter, TaskTrackerToken)> {
    let greeting = calls.next::<pb::UserGreeting>().await?;
    let greeting = greeting.ok_or(io::ErrorKind::UnexpectedEof)?;
    // From here on a node that leaves waits for what the router will have sent.
    let waited_for = answering.leaving.streams().token();
    let checked = if answering.leaving.begun().is_cancelled() {
        Err(Status::unavailable("the node is stopping"))
    } else {
        let identity = &answering.identity;
        check_router(&greeting, &identity.cluster_id, identity.node_id)
            .and_then(|()| check_bringer(bringer, &answering.peers))
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
    calls.allow(answering.message_bytes);
    replies.allow(answering.message_bytes);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let calls = FromRouter {
        frames: calls,
        looks,
        silent: 0,
    };
    Ok((calls, ToRouter(replies), waited_for))
}

/// The calls of a router.
struct FromRouter {
    frames: FrameReader,
    looks: Interval,
    /// Looks since the last frame.
    silent: u32,
}

impl Calls for FromRouter {
    async fn next(&mut self) -> Result<Option<pb::CallFrame>, Gone> {
        loop {
            tokio::select! {
                frame = self.frames.next() => {
                    self.silent = 0;
                    return frame.map_err(|error| {
                        tracing::debug!(%error, "a router's connection broke");
                        Gone
                    });
                }
                _ = self.looks.tick() => {
                    self.silent += 1;
                    if self.silent > GIVEN_UP_AFTER {
                        tracing::debug!("a router says nothing any more");
                        return Err(Gone);
                    }
                }
            }
        }
    }
}

/// The replies to a router.
struct ToRouter(FrameWriter);

impl Replies for ToRouter {
    async fn send(&mut self, frame: pb::ReplyFrame) -> Result<(), Gone> {
        let sent = tokio::time::timeout(TAKES_WITHIN, self.0.send(&frame)).await;
        sent.is_ok_and(|sent| sent.is_ok())
            .then_some(())
            .ok_or(Gone)
    }

    async fn closed(&self) {
        // That shows when something is read or written.
        std::future::pending().await
    }
}
