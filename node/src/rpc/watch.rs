//! Telling routers where everything is and who leads, as long as they listen.
//!
//! Leadership is a matter of leases, whose end nobody announces, so a watch looks for itself, and
//! that bounds how often it tells, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tonic::Status;

use super::server::Handler;

/// How often a watch looks whether something has changed.
const LOOK: Duration = Duration::from_millis(10);
/// How often it gives a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Tells `to` what there is until nobody listens any more.
pub(super) async fn watch(
    handler: Arc<dyn Handler>,
    to: mpsc::Sender<Result<pb::Topology, Status>>,
) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<(Instant, pb::Topology)> = None;
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = to.closed() => return,
        }
        let now = handler.topology();
        let known = told
            .as_ref()
            .is_some_and(|(at, last)| at.elapsed() < SIGN_OF_LIFE && is_same(last, &now));
        if known {
            continue;
        }
        told = Some((Instant::now(), now.clone()));
        if to.send(Ok(now)).await.is_err() {
            return;
        }
    }
}

/// Whether nothing has changed. The position alone tells nothing: it moves with every change of
/// the metadata.
fn is_same(last: &pb::Topology, now: &pb::Topology) -> bool {
    let position = now.position;
    let last = pb::Topology {
        position,
        ..last.clone()
    };
    last == *now
}
