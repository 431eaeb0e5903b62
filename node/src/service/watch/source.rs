//! Reads the changes, keys and values of shards: of this node's replica, or at a shard's leader.
//!
//! A replica counts if it is fresh and in contact with a leader. A position means the same at all
//! replicas, so reads of one shard may change between them; one that lags answers with less.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::end::WatchEnd;
use crate::service::errors::KeyError;
use crate::service::list_keys::ListKeys;
use crate::service::read_changes::{ReadChanges, wait_for_changes};
use crate::service::reads::GetKey;
use crate::service::shards::{Shards, no_leader};
use crate::shard::{ChangesPage, ChangesRange, Page, ShardHandle, TooOld};
use crate::types::{BucketId, KeyChange, ListQuery, ReadResult, Version};

/// Maximum number of pages of keys that are read concurrently, for all streams.
const MAX_PAGE_READS: usize = 8;
/// Maximum number of values that are read concurrently, for all streams.
const MAX_VALUE_READS: usize = 32;
/// Time for which a read that fails is tried again.
pub(super) const RETRY_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two attempts.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

/// Changes, keys and values of all shards.
pub(super) struct ChangeSource {
    shards: Shards,
    /// Permits to read a page of keys.
    pub page_reads: Semaphore,
    /// Permits to read a value.
    pub value_reads: Semaphore,
}

/// Error of reading changes.
#[derive(Debug)]
pub(super) enum ChangesError {
    /// No memory reaches back to the beginning.
    TooOld {
        /// Last entry of the shard's log whose effects readers see.
        last_index: u64,
    },
    Failed(KeyError),
}

impl ChangeSource {
    pub(super) fn new(shards: Shards) -> Self {
        Self {
            shards,
            page_reads: Semaphore::new(MAX_PAGE_READS),
            value_reads: Semaphore::new(MAX_VALUE_READS),
        }
    }

    /// Returns the shards.
    pub(super) fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Returns this node's replica of a shard, if it follows a leader.
    fn replica(&self, shard: u16) -> Option<&Arc<ShardHandle>> {
        let replica = self.shards.local(shard)?;
        let has_leader = || replica.is_serving() || replica.group().has_leader();
        (replica.has_fresh_replica() && has_leader()).then_some(replica)
    }

    /// Returns the last entry of a shard's log whose effects readers see.
    pub(super) async fn last_index(&self, shard: u16) -> Result<u64, KeyError> {
        match self.replica(shard) {
            Some(replica) => Ok(replica.view().recent_changes().last_index()),
            None => self.leader_index(shard).await,
        }
    }

    /// Returns the last entry that a shard's leader has applied.
    pub(super) async fn leader_index(&self, shard: u16) -> Result<u64, KeyError> {
        let nothing = ReadChanges {
            range: ChangesRange {
                after: u64::MAX,
                up_to: u64::MAX,
                bucket: None,
                filter: None,
                limit: 1,
            },
            wait: Duration::ZERO,
        };
        let page = self.shards.run(shard, &nothing).await?;
        Ok(page.map_or_else(|too_old| too_old.last_index, |page| page.up_to))
    }

    /// Reads changes, or waits for the first one, not much longer than `wait`. If this node's
    /// memory doesn't reach back, the leader's may.
    pub(super) async fn changes(
        &self,
        shard: u16,
        range: ChangesRange<'_>,
        wait: Duration,
    ) -> Result<ChangesPage, ChangesError> {
        let mut too_old = None;
        if let Some(replica) = self.replica(shard) {
            let changes = replica.view().recent_changes();
            match wait_for_changes(changes, &range, wait).await {
                Ok(page) => return Ok(page),
                Err(error) => too_old = Some(error),
            }
        }
        let read = self.shards.run(shard, &ReadChanges { range, wait }).await;
        outcome_of(read, too_old)
    }

    /// Reads a page of a bucket's keys; needs a permit.
    pub(super) async fn page(
        &self,
        shard: u16,
        bucket: &BucketId,
        query: &ListQuery,
    ) -> Result<Page, KeyError> {
        if let Some(page) = self.page_of_follower(shard, bucket, query).await {
            return Ok(page);
        }
        let bucket = bucket.as_bytes();
        self.shards.run(shard, &ListKeys { bucket, query }).await
    }

    /// Reads a page from this node's replica, unless it leads; `None` if that fails.
    async fn page_of_follower(
        &self,
        shard: u16,
        bucket: &BucketId,
        query: &ListQuery,
    ) -> Option<Page> {
        let replica = self
            .replica(shard)
            .filter(|replica| !replica.is_serving())?;
        let (result, page) = oneshot::channel();
        let (bucket, query, now) = (*bucket, query.clone(), replica.now());
        replica.spawn_scan(move |view| {
            // Nobody waits for it any more if this fails.
            let _ = result.send(view.page(bucket.as_bytes(), &query, now));
        });
        page.await.ok()?.ok()
    }

    /// Reads the value that a put wrote; `None` if the key has another one by now, or none: the
    /// change that tells so is still to come. Needs a permit.
    pub(super) async fn value(&self, change: &KeyChange) -> Result<Option<Bytes>, KeyError> {
        let shard = self.shards.shard_of(&change.bucket, &change.key);
        let (bucket, key) = (&change.bucket.as_bytes()[..], &change.key[..]);
        if let Some(replica) = self.replica(shard)
            && let Ok(read) = replica.get_eventual(bucket, key).await
            && let Some(value) = value_of(read, change.version)
        {
            return Ok(value);
        }
        let read = self.shards.run(shard, &GetKey { bucket, key }).await?;
        match read {
            // A leader has what any replica has.
            ReadResult::Deleted(_) | ReadResult::Missing => Ok(None),
            live @ ReadResult::Live(_) => {
                value_of(live, change.version).ok_or_else(|| no_leader(shard))
            }
        }
    }
}

/// Returns what a leader has answered. One whose version doesn't know recent changes has none, so
/// what is missing `here` is missing.
fn outcome_of(
    read: Result<Result<ChangesPage, TooOld>, KeyError>,
    here: Option<TooOld>,
) -> Result<ChangesPage, ChangesError> {
    let too_old = match (read, here) {
        (Ok(Ok(page)), _) => return Ok(page),
        (Ok(Err(too_old)), _) | (Err(KeyError::Storage(_)), Some(too_old)) => too_old,
        (Err(error), _) => return Err(ChangesError::Failed(error)),
    };
    let TooOld { last_index } = too_old;
    Err(ChangesError::TooOld { last_index })
}

/// Returns the value that a put of this version wrote: `Some(None)` if the replica is past it,
/// `None` if it may have yet to apply it.
fn value_of(read: ReadResult, version: Version) -> Option<Option<Bytes>> {
    match read {
        ReadResult::Live(stored) if stored.version == version => Some(Some(stored.value)),
        ReadResult::Live(stored) => (stored.version > version).then_some(None),
        ReadResult::Deleted(deleted) => (deleted >= version).then_some(None),
        ReadResult::Missing => None,
    }
}

/// Reads with a permit, and tries again for some time while that fails with what is temporary. To
/// wait for the permit takes nothing of that time: many streams may begin at once, and all must get
/// on.
pub(super) async fn retry<T, F>(permits: &Semaphore, read: impl Fn() -> F) -> Result<T, WatchEnd>
where
    F: Future<Output = Result<T, KeyError>>,
{
    let mut remaining = RETRY_TIMEOUT;
    loop {
        // It is never closed; if it were, the reads would go on without a bound.
        let permit = permits.acquire().await.ok();
        let started = Instant::now();
        let result = timeout(remaining, read()).await;
        drop(permit);
        match result {
            Ok(Ok(result)) => return Ok(result),
            Ok(Err(error)) => wait_for_retry(error).await?,
            Err(_) => return Err(WatchEnd::NotServing),
        }
        let left = remaining.checked_sub(started.elapsed());
        remaining = left.ok_or(WatchEnd::NotServing)?;
    }
}

/// Waits for a moment after an error that is temporary; another one ends the stream.
pub(super) async fn wait_for_retry(error: KeyError) -> Result<(), WatchEnd> {
    match error {
        KeyError::Unavailable(_) | KeyError::UnknownOutcome => {
            sleep(RETRY_BACKOFF).await;
            Ok(())
        }
        KeyError::BucketDeleted => Err(WatchEnd::BucketDeleted),
        error => {
            tracing::warn!(%error, "read for a watch failed");
            Err(WatchEnd::ReadFailed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;
    use crate::types::StoredValue;

    #[test]
    fn a_leader_that_knows_no_changes_has_none() {
        let too_old = |last_index| TooOld { last_index };
        let unknown = || Err(KeyError::Storage(std::io::Error::other("unknown call")));
        let last_index = |read, here| match outcome_of(read, here) {
            Err(ChangesError::TooOld { last_index }) => Some(last_index),
            _ => None,
        };
        assert_eq!(last_index(unknown(), Some(too_old(7))), Some(7));
        assert_eq!(last_index(Ok(Err(too_old(9))), Some(too_old(7))), Some(9));
        // There may be more elsewhere, once a leader answers.
        assert_eq!(last_index(unknown(), None), None);
        assert_eq!(last_index(Err(no_leader(0)), Some(too_old(7))), None);
    }

    #[tokio::test]
    async fn a_permit_is_given_back_before_the_next_attempt() {
        let permits = Semaphore::new(1);
        let attempts = AtomicUsize::new(0);
        let read = || async {
            assert_eq!(permits.available_permits(), 0);
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0 => Err(no_leader(0)),
                attempt => Ok(attempt),
            }
        };
        let taken = permits.acquire().await.unwrap();
        let mut retried = pin!(retry(&permits, read));
        assert_eq!(retried.as_mut().now_or_never(), None);
        assert_eq!(attempts.load(Ordering::Relaxed), 0);
        drop(taken);
        assert_eq!(retried.as_mut().now_or_never(), None);
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
        assert_eq!(permits.available_permits(), 1);
        assert_eq!(retried.await, Ok(1));
    }

    #[test]
    fn only_a_replica_that_has_the_change_knows_its_value() {
        let version = |time| Version { time, region: 1 };
        let live = |time| {
            ReadResult::Live(StoredValue {
                value: Bytes::from_static(b"value"),
                content_type: Bytes::new(),
                version: version(time),
                expires_at: None,
                metadata: Bytes::new(),
            })
        };
        let put = version(5);
        assert_eq!(
            value_of(live(5), put),
            Some(Some(Bytes::from_static(b"value")))
        );
        assert_eq!(value_of(live(6), put), Some(None));
        assert_eq!(value_of(live(4), put), None);
        // It has expired, and that is told next.
        assert_eq!(value_of(ReadResult::Deleted(put), put), Some(None));
        assert_eq!(value_of(ReadResult::Deleted(version(4)), put), None);
        assert_eq!(value_of(ReadResult::Missing, put), None);
    }
}
