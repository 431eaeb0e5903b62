//! What one stream watches, and how it reads that.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::context::WatchContext;
use super::end::WatchEnd;
use super::event::WatchEvent;
use super::reader::RingReader;
use super::settings::WatchRequest;
use super::source::{ChangesError, RETRY_TIMEOUT, wait_for_retry};
use super::token::TokenWriter;
use crate::meta::Bucket;
use crate::service::read_changes::MAX_CHANGES_WAIT;
use crate::shard::{ChangesPage, ChangesRange};
use crate::types::{KeyChange, KeyChangeKind, KeyFilter};

/// Time for which a stream waits until the dispatcher has reached its position.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);
/// Time within which the leaders must say where their logs end.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of changes after which a page ends.
const PAGE_CHANGES: usize = 100;

/// Keys of a bucket that a stream watches.
pub(super) struct Watched {
    pub context: Arc<WatchContext>,
    pub bucket: Arc<Bucket>,
    pub filter: KeyFilter,
    pub with_values: bool,
    /// Shards that have the keys.
    pub shards: Range<u16>,
    pub tokens: TokenWriter,
}

impl Watched {
    pub(super) fn new(
        context: Arc<WatchContext>,
        request: WatchRequest,
        shards: Range<u16>,
    ) -> Self {
        Self {
            tokens: TokenWriter::new(&request.bucket.id, context.history),
            bucket: request.bucket,
            filter: request.filter,
            with_values: request.with_values,
            context,
            shards,
        }
    }

    /// Checks that the stream may go on.
    pub(super) fn check(&self) -> Result<(), WatchEnd> {
        self.context.check(&self.bucket)
    }

    /// Waits until the dispatcher has reached these positions.
    pub(super) async fn wait_for(&self, positions: &[u64]) -> Result<(), WatchEnd> {
        let reached = self.context.dispatcher.wait_for(&self.shards, positions);
        let reached = timeout(REACH_TIMEOUT, reached).await;
        reached.map_err(|_| WatchEnd::NotServing)
    }

    /// Returns whether the logs of the shards go beyond these positions: those of a token may be of
    /// no history at all.
    pub(super) async fn is_in_history(&self, positions: &[u64]) -> Result<bool, WatchEnd> {
        let Err(end) = self.wait_for(positions).await else {
            return Ok(true);
        };
        let is_beyond_a_leader = async {
            for shard in self.shards.clone() {
                let index = self.context.source.leader_index(shard).await;
                let position = positions.get(usize::from(shard));
                if index.is_ok_and(|index| position.is_some_and(|position| index < *position)) {
                    return true;
                }
            }
            false
        };
        match timeout(LEADERS_TIMEOUT, is_beyond_a_leader).await {
            Ok(true) => Ok(false),
            Ok(false) | Err(_) => Err(end),
        }
    }

    /// Joins the ring of the filter, once the dispatcher runs. Returns the positions behind which
    /// all changes come, too.
    pub(super) async fn join(&self) -> Result<(RingReader, Vec<u64>), WatchEnd> {
        self.wait_for(&[]).await?;
        self.join_now()
    }

    /// Joins the ring of the filter, as the dispatcher has been waited for.
    pub(super) fn join_now(&self) -> Result<(RingReader, Vec<u64>), WatchEnd> {
        let dispatcher = &self.context.dispatcher;
        RingReader::join(dispatcher, &self.bucket, &self.filter, &self.shards)
    }

    /// Reads the first changes of a range, at least up to one entry further; `None` if no memory
    /// reaches back to its beginning.
    pub(super) async fn changes(
        &self,
        shard: u16,
        after: u64,
        up_to: u64,
    ) -> Result<Option<ChangesPage>, WatchEnd> {
        let range = ChangesRange {
            after,
            up_to,
            bucket: Some(&self.bucket.id),
            filter: Some(&self.filter),
            limit: PAGE_CHANGES,
        };
        let source = &self.context.source;
        let read = async {
            loop {
                match source.changes(shard, range, MAX_CHANGES_WAIT).await {
                    Ok(page) if page.up_to > after => return Ok(Some(page)),
                    // The replica lags, and was waited for.
                    Ok(_) => {}
                    Err(ChangesError::TooOld { .. }) => return Ok(None),
                    Err(ChangesError::Failed(error)) => wait_for_retry(error).await?,
                }
            }
        };
        let result = timeout(RETRY_TIMEOUT, read).await;
        result.unwrap_or(Err(WatchEnd::NotServing))
    }
}

/// Returns the event of a change for one watcher. The drop of the bucket ends the stream instead.
pub(super) fn event(change: KeyChange, token: Arc<str>) -> Result<Arc<WatchEvent>, WatchEnd> {
    if change.kind == KeyChangeKind::BucketDropped {
        return Err(WatchEnd::BucketDeleted);
    }
    Ok(Arc::new(WatchEvent::unbuffered(change, token)))
}
