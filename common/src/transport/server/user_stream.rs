//! Streams on which routers forward users' requests: plain frames, without gRPC.

use std::io;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::exchange::{CallReader, Disconnected, ReplyWriter, StreamHandler, exchange};
use crate::node_id::NodeId;
use crate::transport::frames::{FrameReader, FrameWriter, split};
use crate::transport::headers::TABLE_VERSION;
use crate::transport::stream_kind::check_user_greeting;
use crate::transport::tls::PeerStream;

/// Interval of the checks whether a router has sent a frame, as it does every second.
const LIVENESS_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Number of consecutive checks without a frame after which a router is disconnected.
const MAX_MISSED_CHECKS: u32 = 3;
/// Timeout of sending one frame of replies to a router.
const SEND_TIMEOUT: Duration = Duration::from_secs(6);

/// Connection of a router that has sent its greeting, and waits for the reply.
#[derive(Debug)]
pub struct GreetedConnection {
    greeting: pb::UserGreeting,
    calls: FrameReader,
    replies: FrameWriter,
}

impl GreetedConnection {
    /// Reads the greeting of a router.
    ///
    /// # Errors
    /// Fails if the connection fails or ends, or begins with anything else.
    pub async fn read(stream: PeerStream) -> io::Result<Self> {
        let (mut calls, replies) = split(stream);
        let greeting = calls.next::<pb::UserGreeting>().await?;
        let greeting = greeting.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self {
            greeting,
            calls,
            replies,
        })
    }

    /// Checks that the router is of `cluster_id`, addresses node `me` and knows the same headers.
    ///
    /// # Errors
    /// Fails if one of these doesn't hold.
    pub fn check(&self, cluster_id: &str, me: NodeId) -> Result<(), Status> {
        check_user_greeting(&self.greeting, cluster_id, me)
    }

    /// Replies that the router is accepted, or why not; returns its stream, whose frames have up to
    /// `max_frame_bytes`.
    ///
    /// # Errors
    /// Fails if the router isn't accepted, or the connection fails.
    pub async fn reply(
        mut self,
        accepted: Result<(), Status>,
        max_frame_bytes: usize,
    ) -> io::Result<UserStream> {
        let welcome = match &accepted {
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
        self.replies.send(&welcome).await?;
        accepted.map_err(io::Error::other)?;
        self.calls.set_max_frame_bytes(max_frame_bytes);
        self.replies.set_max_frame_bytes(max_frame_bytes);
        let mut checks = tokio::time::interval(LIVENESS_CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let calls = UserCalls {
            frames: self.calls,
            checks,
            missed_checks: 0,
        };
        let replies = UserReplies(self.replies);
        Ok(UserStream { calls, replies })
    }
}

/// Stream of users' requests from a router.
#[derive(Debug)]
pub struct UserStream {
    calls: UserCalls,
    replies: UserReplies,
}

impl UserStream {
    /// Handles the requests until the stream ends, or the router gives no sign of life. When
    /// `drain` is cancelled, the router is told so, all requests that it has sent by then are
    /// answered, and the stream ends.
    pub fn serve(
        self,
        handler: impl StreamHandler,
        drain: CancellationToken,
    ) -> impl Future<Output = ()> + Send {
        exchange(handler, self.calls, self.replies, drain)
    }
}

/// Requests from a router.
#[derive(Debug)]
struct UserCalls {
    frames: FrameReader,
    checks: Interval,
    /// Number of checks since the last frame.
    missed_checks: u32,
}

impl CallReader for UserCalls {
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
#[derive(Debug)]
struct UserReplies(FrameWriter);

impl ReplyWriter for UserReplies {
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
