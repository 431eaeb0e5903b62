//! Counters of the public API.
//!
//! Every request is counted, so a counter that all threads share would be the hottest cache line of
//! the process. Counts are spread over stripes by connection, and summed when they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloudkv_common::server::ConnectionMetrics;
use crossbeam_utils::CachePadded;

const STRIPE_COUNT: usize = 16;

/// Class of a request, by which requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestClass {
    /// GET and HEAD of a key.
    Get,
    /// PUT and POST of a key.
    Put,
    /// PATCH of a key.
    Patch,
    /// DELETE of a key.
    Delete,
    /// Listing of keys.
    List,
    /// GET of a bucket or a key as an event stream.
    Watch,
    /// POST of a bucket: several operations on its keys.
    Batch,
    /// Everything on `/buckets`.
    Buckets,
    /// Everything else, including `OPTIONS` and `/ping`.
    Other,
}

impl RequestClass {
    /// All classes.
    pub(crate) const ALL: [Self; 9] = [
        Self::Get,
        Self::Put,
        Self::Patch,
        Self::Delete,
        Self::List,
        Self::Watch,
        Self::Batch,
        Self::Buckets,
        Self::Other,
    ];

    /// Returns the name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Batch => "batch",
            Self::Buckets => "buckets",
            Self::Other => "other",
        }
    }
}

/// Number of classes of status codes: 2xx to 5xx.
const STATUS_CLASS_COUNT: usize = 4;

#[derive(Debug, Default)]
struct CounterStripe {
    requests: [[AtomicU64; STATUS_CLASS_COUNT]; RequestClass::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Counters of the public API, cheap to add to from any thread.
#[derive(Debug, Default)]
pub(crate) struct ApiMetrics {
    stripes: [CachePadded<CounterStripe>; STRIPE_COUNT],
    streamed_bytes: AtomicU64,
    exported_keys: AtomicU64,
    imported_keys: AtomicU64,
    /// Counters of the API's connections.
    pub connections: Arc<ConnectionMetrics>,
}

/// Number of requests of one class that were answered with one class of status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestCount {
    /// Class of the requests.
    pub class: RequestClass,
    /// First digit of the status code, 2 to 5.
    pub status: u8,
    /// Number of requests.
    pub count: u64,
}

impl ApiMetrics {
    /// Counts an answered request: its class, its status, and the bytes of both bodies.
    pub(crate) fn count_request(
        &self,
        connection: u32,
        class: RequestClass,
        status: u16,
        sizes: BodySizes,
    ) {
        let stripe = &self.stripes[connection as usize % STRIPE_COUNT];
        let status = usize::from(status / 100).clamp(2, 5) - 2;
        stripe.requests[class as usize][status].fetch_add(1, Ordering::Relaxed);
        if sizes.received > 0 {
            stripe.bytes_in.fetch_add(sizes.received, Ordering::Relaxed);
        }
        if sizes.sent > 0 {
            stripe.bytes_out.fetch_add(sizes.sent, Ordering::Relaxed);
        }
    }

    /// Counts bytes of a response whose size wasn't known when its request was counted.
    pub(crate) fn count_streamed_bytes(&self, bytes: u64) {
        self.streamed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts keys that an export has sent.
    pub(crate) fn count_exported_keys(&self, count: u64) {
        self.exported_keys.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts keys that an import has written.
    pub(crate) fn count_imported_keys(&self, count: u64) {
        self.imported_keys.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the number of keys that exports have sent.
    pub(crate) fn exported_keys(&self) -> u64 {
        self.exported_keys.load(Ordering::Relaxed)
    }

    /// Returns the number of keys that imports have written.
    pub(crate) fn imported_keys(&self) -> u64 {
        self.imported_keys.load(Ordering::Relaxed)
    }

    /// Returns the counts that aren't zero, by class and status.
    pub(crate) fn request_counts(&self) -> Vec<RequestCount> {
        let mut counts = Vec::new();
        for class in RequestClass::ALL {
            for status in 0..STATUS_CLASS_COUNT {
                let count = self.sum(|stripe| &stripe.requests[class as usize][status]);
                if count > 0 {
                    counts.push(RequestCount {
                        class,
                        status: status as u8 + 2,
                        count,
                    });
                }
            }
        }
        counts
    }

    /// Returns the bytes of requests' bodies, as their heads declared.
    pub(crate) fn bytes_in(&self) -> u64 {
        self.sum(|stripe| &stripe.bytes_in)
    }

    /// Returns the bytes of responses' bodies.
    pub(crate) fn bytes_out(&self) -> u64 {
        let streamed = self.streamed_bytes.load(Ordering::Relaxed);
        self.sum(|stripe| &stripe.bytes_out) + streamed
    }

    fn sum(&self, counter: impl Fn(&CounterStripe) -> &AtomicU64) -> u64 {
        self.stripes
            .iter()
            .map(|stripe| counter(stripe).load(Ordering::Relaxed))
            .sum()
    }
}

/// Bytes of a request's body and of its response's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BodySizes {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_are_summed() {
        let metrics = ApiMetrics::default();
        for connection in 0..40 {
            metrics.count_request(
                connection,
                RequestClass::Get,
                200,
                BodySizes {
                    received: 0,
                    sent: 100,
                },
            );
        }
        metrics.count_request(
            7,
            RequestClass::Put,
            413,
            BodySizes {
                received: 5,
                sent: 1,
            },
        );
        let get = RequestCount {
            class: RequestClass::Get,
            status: 2,
            count: 40,
        };
        let put = RequestCount {
            class: RequestClass::Put,
            status: 4,
            count: 1,
        };
        assert_eq!(metrics.request_counts(), [get, put]);
        assert_eq!((metrics.bytes_in(), metrics.bytes_out()), (5, 4001));
        metrics.count_streamed_bytes(99);
        assert_eq!(metrics.bytes_out(), 4100);
    }

    #[test]
    fn classes_index_their_counters() {
        for (index, class) in RequestClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }
}
