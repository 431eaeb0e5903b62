//! Where a scan of a shard is begun: at its leader, wherever that is.
//!
//! Invariant: the view has every write that was acknowledged before the scan was asked for: a leader
//! takes it, after it has made sure that it leads. This node's own view stays valid when it stops
//! leading.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::raft::NodeId;
use crate::service::errors::KeyError;
use crate::service::shards::{Shards, no_leader};
use crate::shard::ShardHandle;

/// Time within which a leader must begin the scan.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of one attempt to begin a scan at another node.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum and maximum of the backoff between attempts to reach a leader.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Node at which a scan is begun.
pub(crate) enum ScanPlace<'a> {
    /// This one, which leads the shard.
    Here(&'a Arc<ShardHandle>),
    /// Another one, which leads it, as far as this node knows.
    At(NodeId),
}

/// Search for the node at which a scan of a shard is begun.
pub(crate) struct LeaderSearch<'a> {
    shards: &'a Shards,
    number: u16,
    deadline: Instant,
    /// Other nodes of the region, of which the first is asked if no leader is known.
    others: Vec<NodeId>,
    backoff: Duration,
}

impl<'a> LeaderSearch<'a> {
    /// Begins to search, for up to 10 s.
    pub(crate) fn new(shards: &'a Shards, number: u16) -> Self {
        Self {
            shards,
            number,
            deadline: Instant::now() + OPEN_TIMEOUT,
            others: shards.peers().same_region(),
            backoff: RETRY_BACKOFF.0,
        }
    }

    /// Returns this node or the leader; any other node if none is known.
    pub(crate) fn place(&self) -> Result<ScanPlace<'a>, KeyError> {
        let shard = self.shards.local(self.number);
        let shard = shard.ok_or_else(|| no_leader(self.number))?;
        if shard.is_serving() {
            return Ok(ScanPlace::Here(shard));
        }
        let any_other = self.others.first().copied();
        // A replica knows when there is no leader.
        let any_other = any_other.filter(|_| !shard.is_hosted());
        let leader = shard.remote_leader().or(any_other);
        leader
            .map(ScanPlace::At)
            .ok_or_else(|| no_leader(self.number))
    }

    /// Waits before the next attempt. Returns the error of the last one if it is too late for that.
    pub(crate) async fn retry_after(&mut self, error: KeyError) -> Result<(), KeyError> {
        if Instant::now() >= self.deadline {
            return Err(error);
        }
        if !self.others.is_empty() {
            self.others.rotate_left(1);
        }
        sleep(self.backoff).await;
        self.backoff = (2 * self.backoff).min(RETRY_BACKOFF.1);
        Ok(())
    }
}

/// Waits for another node to begin a scan.
pub(crate) async fn await_begin<T>(
    shards: &Shards,
    (number, leader): (u16, NodeId),
    begun: impl Future<Output = Result<T, Status>>,
) -> Result<T, KeyError> {
    let begun = timeout(ATTEMPT_TIMEOUT, begun).await;
    let timed_out = |_| Err(Status::deadline_exceeded("no answer within the timeout"));
    begun.unwrap_or_else(timed_out).map_err(|status| {
        let leader = shards.peers().name_of(leader);
        tracing::debug!(leader, reason = status.message(), "scan not begun");
        no_leader(number)
    })
}
