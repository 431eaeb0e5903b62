//! Pins of an export: the changes since its views are kept at all nodes of the region, so that a
//! watch that begins where the export ends misses none.
//!
//! They are renewed as long as the export runs, and end by themselves some time after it: the
//! client has that long to begin the watch.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::service::change_pins::pin_changes;
use crate::service::shards::Shards;

/// Time after which the pins end, unless they are renewed.
const PIN_TTL: Duration = Duration::from_secs(60);
/// Interval at which they are renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// Positions of an export's views, each a shard's number and the last entry that the view has.
type Positions = Arc<Mutex<Vec<(u16, u64)>>>;

/// Pins of one export.
pub(super) struct ExportPins {
    id: u64,
    shards: Shards,
    positions: Positions,
    /// Renews the pins; `None` before the first view.
    renewal: Option<AbortOnDropHandle<()>>,
}

impl ExportPins {
    /// Creates the pins of an export, of an ID that no other has.
    pub(super) fn new(shards: Shards, id: u64) -> Self {
        Self {
            id,
            shards,
            positions: Positions::default(),
            renewal: None,
        }
    }

    /// Pins the changes since a shard's view, which was just taken.
    pub(super) async fn add(&mut self, shard: u16, applied_index: u64) {
        self.positions.lock().push((shard, applied_index));
        // Whether all memories reach back matters at the end of the export.
        let _ = self.pin().await;
        self.renewal.get_or_insert_with(|| {
            let (shards, id) = (self.shards.clone(), self.id);
            let renewal = renew(shards, id, self.positions.clone());
            AbortOnDropHandle::new(tokio::spawn(renewal))
        });
    }

    /// Renews the pins for the last time. Returns the positions of all views, unless changes since
    /// one of them are gone already.
    pub(super) async fn finish(&mut self) -> Option<Vec<u64>> {
        self.renewal = None;
        if !self.pin().await {
            return None;
        }
        let positions = self.positions.lock();
        Some(positions.iter().map(|(_, index)| *index).collect())
    }

    async fn pin(&self) -> bool {
        let positions = self.positions.lock().clone();
        pin_changes(&self.shards, self.id, &positions, PIN_TTL).await
    }
}

async fn renew(shards: Shards, id: u64, positions: Positions) {
    loop {
        tokio::time::sleep(RENEWAL_INTERVAL).await;
        let positions = positions.lock().clone();
        // As above.
        let _ = pin_changes(&shards, id, &positions, PIN_TTL).await;
    }
}
