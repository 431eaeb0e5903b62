//! Streams of changes of a node: starts them, and ends them when the node stops.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::context::{BucketLookup, WatchContext};
use super::end::WatchEnd;
use super::run;
use super::settings::{WatchRequest, WatchSettings};
use super::status::WatchStatus;
use super::stream::WatchStream;
use super::token::{RegionHistory, ResumeToken};
use crate::meta::Catalog;
use crate::service::shards::Shards;
use crate::types::BucketId;

/// Streams of changes of this node. Cheap to clone.
#[derive(Clone)]
pub struct Watches(Arc<WatchContext>);

impl Watches {
    /// Creates the streams over `shards`, of the buckets in `catalog`.
    ///
    /// `history` is the region's number and incarnation, `(region, incarnation)`, as the node's
    /// identity has them: a resume token of another one is refused. What follows the shards runs on
    /// `runtime`, which must not end before the node does; it runs only while there are watchers.
    pub fn new(
        shards: Shards,
        catalog: Arc<Catalog>,
        history: (u32, u64),
        runtime: Handle,
        settings: WatchSettings,
    ) -> Self {
        let buckets: BucketLookup = Arc::new(move |id| catalog.bucket(id));
        Self::with_buckets(shards, buckets, history, runtime, settings)
    }

    pub(super) fn with_buckets(
        shards: Shards,
        buckets: BucketLookup,
        (region, incarnation): (u32, u64),
        runtime: Handle,
        settings: WatchSettings,
    ) -> Self {
        let history = RegionHistory {
            region,
            incarnation,
        };
        let context = WatchContext::new(shards, buckets, history, runtime, settings);
        Self(Arc::new(context))
    }

    /// Starts a stream. Fails only with what is temporary: the client may come back later.
    pub fn start(&self, request: WatchRequest) -> Result<WatchStream, WatchEnd> {
        let started = self.try_start(request);
        if let Err(end) = &started {
            self.0.counters.record_refusal(*end);
        }
        started
    }

    fn try_start(&self, request: WatchRequest) -> Result<WatchStream, WatchEnd> {
        let context = &self.0;
        context.check(&request.bucket)?;
        let permit = context
            .admission
            .admit(&request.bucket.id, request.client)?;
        let shards = context.shards_of(&request.bucket.id, &request.filter);
        run::ensure_running(context);
        if !context.dispatcher.is_serving(&shards) {
            return Err(WatchEnd::NotServing);
        }
        Ok(WatchStream::new(context.clone(), permit, request, shards))
    }

    /// Ends all streams, and refuses later ones: the node stops.
    pub fn drain(&self) {
        self.0.stop.cancel();
        self.0.dispatcher.drain();
    }

    /// Returns the status.
    pub fn status(&self) -> WatchStatus {
        let context = &self.0;
        let (watchers, buckets) = context.admission.counts();
        context
            .counters
            .status(watchers, buckets, context.dispatcher.buffered_bytes())
    }

    /// Returns the token that goes on behind these entries, one for each shard.
    pub fn token(&self, bucket: &BucketId, positions: Vec<u64>) -> ResumeToken {
        ResumeToken::new(bucket, self.0.history, positions)
    }
}
