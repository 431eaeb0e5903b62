//! What all streams of changes of a node share.

use std::ops::Range;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::buffer::BufferBounds;
use super::dispatcher::Dispatcher;
use super::end::WatchEnd;
use super::settings::WatchSettings;
use super::source::ChangeSource;
use super::status::WatchCounters;
use super::token::RegionHistory;
use crate::meta::Bucket;
use crate::service::shards::Shards;
use crate::types::{Access, BucketId, KeyFilter};

/// Looks up a bucket that is in use.
pub(super) type BucketLookup = Arc<dyn Fn(&BucketId) -> Option<Arc<Bucket>> + Send + Sync>;

/// What all streams share.
pub(super) struct WatchContext {
    pub source: ChangeSource,
    pub dispatcher: Arc<Dispatcher>,
    pub admission: Arc<Admission>,
    pub counters: WatchCounters,
    pub history: RegionHistory,
    /// Cancelled when the node stops.
    pub stop: CancellationToken,
    /// Runtime of the tasks that no stream has of its own.
    pub runtime: Handle,
    buckets: BucketLookup,
}

impl WatchContext {
    pub(super) fn new(
        shards: Shards,
        buckets: BucketLookup,
        history: RegionHistory,
        runtime: Handle,
        settings: WatchSettings,
    ) -> Self {
        let bounds = BufferBounds {
            bucket: settings.bucket_buffer_bytes,
            total: settings.buffer_bytes,
        };
        let dispatcher = Dispatcher::new(shards.numbers().end, history, bounds);
        Self {
            source: ChangeSource::new(shards),
            dispatcher: Arc::new(dispatcher),
            admission: Arc::new(Admission::new(&settings)),
            counters: WatchCounters::default(),
            history,
            stop: CancellationToken::new(),
            runtime,
            buckets,
        }
    }

    /// Checks that the node doesn't stop, and that a bucket may still be watched by those who were
    /// authorized when it was like this.
    pub(super) fn check(&self, bucket: &Bucket) -> Result<(), WatchEnd> {
        if self.stop.is_cancelled() {
            return Err(WatchEnd::Draining);
        }
        self.check_access(&bucket.id, bucket.access)
    }

    /// Checks that a bucket is still there, with this access mode.
    pub(super) fn check_access(&self, id: &BucketId, access: Access) -> Result<(), WatchEnd> {
        match (self.buckets)(id) {
            Some(bucket) if bucket.access == access => Ok(()),
            Some(_) => Err(WatchEnd::AccessChanged),
            None => Err(WatchEnd::BucketDeleted),
        }
    }

    /// Returns the numbers of the shards that have what a filter selects: a key is in one.
    pub(super) fn shards_of(&self, bucket: &BucketId, filter: &KeyFilter) -> Range<u16> {
        let shards = self.source.shards();
        match filter {
            KeyFilter::Key(key) => {
                let shard = shards.shard_of(bucket, key);
                shard..shard + 1
            }
            KeyFilter::Prefix(_) => shards.numbers(),
        }
    }
}
