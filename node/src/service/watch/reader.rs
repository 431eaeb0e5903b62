//! A stream's place in the ring of its bucket and filter.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::watch;

use super::dispatcher::Dispatcher;
use super::end::WatchEnd;
use super::event::WatchEvent;
use super::ring::{EventRing, Taken};
use crate::meta::Bucket;
use crate::types::{BucketId, KeyFilter};

/// Place of a stream in a ring, until it is dropped.
pub(super) struct RingReader {
    dispatcher: Arc<Dispatcher>,
    bucket: BucketId,
    filter: KeyFilter,
    ring: Arc<EventRing>,
    cursor: u64,
    changed: watch::Receiver<()>,
}

impl RingReader {
    /// Joins the ring of a filter, which watches keys of these shards. Returns the positions behind
    /// which all changes come, too.
    pub(super) fn join(
        dispatcher: &Arc<Dispatcher>,
        bucket: &Bucket,
        filter: &KeyFilter,
        shards: &Range<u16>,
    ) -> Result<(Self, Vec<u64>), WatchEnd> {
        let joined = dispatcher.join(bucket, filter, shards)?;
        let reader = Self {
            dispatcher: dispatcher.clone(),
            bucket: bucket.id,
            filter: filter.clone(),
            ring: joined.ring,
            cursor: joined.cursor,
            changed: joined.changed,
        };
        Ok((reader, joined.positions))
    }

    /// Appends the next events to `events`: about `max_bytes` of them, and at least one.
    pub(super) fn take(
        &mut self,
        max_bytes: usize,
        with_values: bool,
        events: &mut Vec<Arc<WatchEvent>>,
    ) -> Taken {
        // What comes after this wakes the stream.
        self.changed.mark_unchanged();
        let cursor = &mut self.cursor;
        self.ring.take(cursor, max_bytes, with_values, events)
    }

    /// Waits for news since the last events were taken. Cancel safe.
    pub(super) async fn wait(&mut self) {
        // The ring has the sender, so this can't fail.
        let _ = self.changed.changed().await;
    }

    /// Returns the positions behind which the stream goes on if it has taken all events; `None` if
    /// there are more.
    pub(super) fn positions(&self) -> Option<Vec<u64>> {
        self.dispatcher.positions_behind(&self.ring, self.cursor)
    }
}

impl Drop for RingReader {
    fn drop(&mut self) {
        self.dispatcher
            .leave(&self.bucket, &self.filter, &self.ring, self.cursor);
    }
}
