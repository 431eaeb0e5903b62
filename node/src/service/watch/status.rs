//! Status of a node's streams of changes, and its counters.

use std::sync::atomic::{AtomicU64, Ordering};

use super::end::WatchEnd;

/// Status of the streams of changes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchStatus {
    /// Number of watchers.
    pub watchers: usize,
    /// Number of buckets that they watch.
    pub watched_buckets: usize,
    /// Size of the changes that watchers have yet to be told, in bytes.
    pub buffered_bytes: usize,
    /// Number of changes told, each counted for each watcher.
    pub events: u64,
    /// Number of resets told: changes may have been missed.
    pub resets: u64,
    /// Numbers of streams that were refused, by the reason's name.
    pub refused: Vec<(&'static str, u64)>,
    /// Numbers of streams that have ended, by the reason's name. `closed` are those that the client
    /// has closed.
    pub ended: Vec<(&'static str, u64)>,
}

/// Counters of streams.
#[derive(Debug, Default)]
pub(super) struct WatchCounters {
    events: AtomicU64,
    resets: AtomicU64,
    refused: [AtomicU64; WatchEnd::COUNT],
    ended: [AtomicU64; WatchEnd::COUNT],
    closed: AtomicU64,
}

impl WatchCounters {
    pub(super) fn record_events(&self, events: usize) {
        self.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn record_reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn record_refusal(&self, end: WatchEnd) {
        self.refused[end.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Records the end of a stream; `None` if the client has closed it.
    pub(super) fn record_end(&self, end: Option<WatchEnd>) {
        let counter = end.map_or(&self.closed, |end| &self.ended[end.index()]);
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the status, with these gauges.
    pub(super) fn status(
        &self,
        watchers: usize,
        watched_buckets: usize,
        buffered_bytes: usize,
    ) -> WatchStatus {
        let closed = ("closed", self.closed.load(Ordering::Relaxed));
        let mut ended = by_name(&self.ended);
        ended.push(closed);
        WatchStatus {
            watchers,
            watched_buckets,
            buffered_bytes,
            events: self.events.load(Ordering::Relaxed),
            resets: self.resets.load(Ordering::Relaxed),
            refused: by_name(&self.refused),
            ended,
        }
    }
}

fn by_name(counters: &[AtomicU64; WatchEnd::COUNT]) -> Vec<(&'static str, u64)> {
    let counts = counters
        .iter()
        .map(|counter| counter.load(Ordering::Relaxed));
    WatchEnd::NAMES.into_iter().zip(counts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_under_their_names() {
        let counters = WatchCounters::default();
        let too_many = |of| WatchEnd::TooManyWatchers { of };
        let reasons = [
            (WatchEnd::BucketDeleted, "bucket_deleted"),
            (WatchEnd::AccessChanged, "access_changed"),
            (WatchEnd::Draining, "draining"),
            (too_many("node"), "node_watchers"),
            (too_many("bucket"), "bucket_watchers"),
            (too_many("address"), "address_watchers"),
            (WatchEnd::TooSlow, "too_slow"),
            (WatchEnd::NotServing, "not_serving"),
            (WatchEnd::ReadFailed, "read_failed"),
        ];
        for (times, (end, _)) in reasons.iter().enumerate() {
            for _ in 0..times {
                counters.record_refusal(*end);
                counters.record_end(Some(*end));
            }
        }
        counters.record_end(None);
        let status = counters.status(1, 2, 3);
        let names = reasons.iter().map(|(_, name)| *name);
        let mut expected: Vec<_> = names.zip(0..).collect();
        assert_eq!(status.refused, expected);
        expected.push(("closed", 1));
        assert_eq!(status.ended, expected);
        assert_eq!(
            (
                status.watchers,
                status.watched_buckets,
                status.buffered_bytes
            ),
            (1, 2, 3)
        );
    }
}
