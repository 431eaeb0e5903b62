//! Loads the values of puts, for watchers that want them: once for all, unless they are large.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::end::WatchEnd;
use super::event::WatchEvent;
use super::source::retry;
use super::watched::Watched;
use crate::types::KeyChangeKind;

/// Maximum size of a value that is kept for all watchers of its event. A larger one is read by each
/// of them: it would take much of the rings' memory while one of them is slow.
const MAX_SHARED_VALUE_BYTES: u64 = 64 << 10;
/// Maximum number of values that a stream reads concurrently.
const MAX_CONCURRENT_READS: usize = 8;

/// Loads the values of events. Those whose keys have another value by now are left out: the change
/// that tells so is still to come. Cancel safe.
pub(super) async fn load(
    watched: &Watched,
    events: Vec<Arc<WatchEvent>>,
) -> Result<Vec<Arc<WatchEvent>>, WatchEnd> {
    let loads: Vec<_> = events
        .into_iter()
        .map(|event| load_one(watched, event))
        .collect();
    let loaded = stream::iter(loads).buffered(MAX_CONCURRENT_READS);
    let events: Vec<_> = loaded.try_collect().await?;
    watched.context.dispatcher.check_bounds(&watched.bucket.id);
    Ok(events.into_iter().flatten().collect())
}

async fn load_one(
    watched: &Watched,
    event: Arc<WatchEvent>,
) -> Result<Option<Arc<WatchEvent>>, WatchEnd> {
    let KeyChangeKind::Put(details) = &event.change.kind else {
        return Ok(Some(event));
    };
    let source = &watched.context.source;
    let read = || retry(&source.value_reads, || source.value(&event.change));
    if details.size > MAX_SHARED_VALUE_BYTES {
        let value = read().await?;
        return Ok(value.map(|value| Arc::new(event.with_value(value))));
    }
    event.load_value(read).await?;
    Ok(event.value().is_some().then_some(event))
}
