//! Calling end of a stream: a bounded queue to the task that owns the connection.

use std::time::Duration;

use cloudkv_proto::v1 as pb;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::call::{CallError, PendingReply, QueuedCall};
use super::connection::{ConnectionTarget, ConnectionTask, LastFailure};
use super::settings::RpcClientSettings;
use crate::byte_budget::ByteBudget;
use crate::transport::stream_kind::{Greeting, StreamProtocol};
use crate::transport::tls::Dialer;

/// Bytes that a call takes in queues beside its contents.
const CALL_OVERHEAD_BYTES: usize = 128;

/// Client for the calls of one stream to one node.
pub struct RpcClient {
    queue: mpsc::Sender<QueuedCall>,
    budget: ByteBudget,
    connected: watch::Receiver<bool>,
    last_failure: LastFailure,
    stop: CancellationToken,
}

impl RpcClient {
    /// Starts a client, whose task runs on `runtime` and whose queue is bounded by `budget`.
    /// `address` may change while it runs.
    pub fn start(
        runtime: &Handle,
        dialer: Dialer,
        greeting: Greeting,
        protocol: StreamProtocol,
        address: watch::Receiver<String>,
        settings: RpcClientSettings,
        budget: ByteBudget,
    ) -> Self {
        let (queue, calls) = mpsc::channel(settings.max_calls);
        let (connected_sender, connected) = watch::channel(false);
        let stop = CancellationToken::new();
        let target = ConnectionTarget {
            dialer,
            greeting,
            protocol,
            address,
        };
        let last_failure = LastFailure::default();
        let failure = last_failure.clone();
        let task = ConnectionTask::new(target, settings, calls, connected_sender, failure);
        runtime.spawn(stop.clone().run_until_cancelled_owned(task.run()));
        Self {
            queue,
            budget,
            connected,
            last_failure,
            stop,
        }
    }

    /// Queues a call. Calls of one caller are sent in the order in which they were queued.
    ///
    /// # Errors
    /// [`CallError::Unsent`] without a connection, [`CallError::Busy`] if the queue is full.
    pub fn call(&self, body: pb::call::Body, timeout: Duration) -> Result<PendingReply, CallError> {
        if !self.is_connected() {
            return Err(CallError::Unsent);
        }
        let bytes = body.encoded_len() + CALL_OVERHEAD_BYTES;
        let permit = self.budget.try_acquire(bytes).ok_or(CallError::Busy)?;
        let (reply_sender, reply) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        let (pending, state) = PendingReply::new(deadline, reply);
        let call = QueuedCall {
            body,
            state,
            deadline,
            permit,
            reply: reply_sender,
        };
        match self.queue.try_send(call) {
            Ok(()) => Ok(pending),
            Err(mpsc::error::TrySendError::Full(_)) => Err(CallError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(CallError::Unsent),
        }
    }

    /// Returns whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Returns why there is no connection now; `None` if there is one, or no attempt has failed.
    pub fn failure(&self) -> Option<String> {
        self.last_failure.get().filter(|_| !self.is_connected())
    }

    /// Returns a receiver of whether there is a connection.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }
}

impl std::fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RpcClient").finish_non_exhaustive()
    }
}

impl Drop for RpcClient {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
