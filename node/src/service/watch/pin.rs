//! Pin of a stream that tells what there is: the changes since are kept at all nodes of the region.
//!
//! Most streams are done before they need one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::context::WatchContext;
use crate::service::change_pins::pin_changes;

/// Time after which changes are pinned.
const FIRST_PIN_DELAY: Duration = Duration::from_secs(1);
/// Interval at which the pin is renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);
/// Time after which the pin ends unless it is renewed.
const PIN_TTL: Duration = Duration::from_secs(60);

/// Pin of one stream, until it is dropped.
pub(super) struct StreamPin {
    context: Arc<WatchContext>,
    /// ID of the pin, once there is one.
    id: Option<u64>,
    /// Positions that were pinned last, each with its shard.
    positions: Vec<(u16, u64)>,
    renewal: Instant,
}

impl StreamPin {
    pub(super) fn new(context: &Arc<WatchContext>) -> Self {
        Self {
            context: context.clone(),
            id: None,
            positions: Vec::new(),
            renewal: Instant::now() + FIRST_PIN_DELAY,
        }
    }

    /// Pins the changes behind `positions`, or renews the pin, if that is due.
    pub(super) async fn renew(&mut self, positions: impl FnOnce() -> Vec<(u16, u64)>) {
        if Instant::now() < self.renewal {
            return;
        }
        self.renewal = Instant::now() + RENEWAL_INTERVAL;
        if self.id.is_none() {
            // Without a random ID there is no pin, and changes may be missing at the end.
            self.id = getrandom::u64().ok();
        }
        let Some(id) = self.id else {
            return;
        };
        self.positions = positions();
        let shards = self.context.source.shards();
        // The reads that need the changes find out what is missing.
        let _ = pin_changes(shards, id, &self.positions, PIN_TTL).await;
    }
}

impl Drop for StreamPin {
    fn drop(&mut self) {
        let Some(id) = self.id else {
            return;
        };
        let context = self.context.clone();
        let positions = std::mem::take(&mut self.positions);
        self.context.runtime.spawn(async move {
            let shards = context.source.shards();
            // A pin that is left ends by itself.
            let _ = pin_changes(shards, id, &positions, Duration::ZERO).await;
        });
    }
}
