//! Publishes the topology, with the leaders of all groups, to routers that watch it.
//!
//! Leadership depends on leases, whose end no event announces, so a watch polls. That bounds the
//! rate of updates, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tonic::Status;

use super::handler::RpcHandler;

/// Interval at which a watch polls the topology.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Interval at which an unchanged topology is sent as a sign of life.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// Sends the topology to `updates` whenever it changes, until the receiver is dropped.
pub(super) async fn watch_topology(
    handler: Arc<dyn RpcHandler>,
    updates: mpsc::Sender<Result<pb::Topology, Status>>,
) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_sent: Option<(Instant, pb::Topology)> = None;
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = updates.closed() => return,
        }
        let current = handler.topology();
        let is_known = last_sent.as_ref().is_some_and(|(at, last)| {
            at.elapsed() < HEARTBEAT_INTERVAL && is_unchanged(last, &current)
        });
        if is_known {
            continue;
        }
        last_sent = Some((Instant::now(), current.clone()));
        if updates.send(Ok(current)).await.is_err() {
            return;
        }
    }
}

/// Returns whether nothing but the position has changed. The position alone is no change: it moves
/// with every command of the metadata.
fn is_unchanged(last: &pb::Topology, current: &pb::Topology) -> bool {
    let position = current.position;
    let last = pb::Topology {
        position,
        ..last.clone()
    };
    last == *current
}
