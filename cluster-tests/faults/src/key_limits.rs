//! Key limits under faults: clients fill a bucket until a new key is refused, then another one.
//!
//! A refusal below the limit is wrong, and so is an overshoot of more than 1 %. Every acknowledged
//! key counts; a key of unknown outcome may count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;

use super::recording_client::{ClientContext, RESPONSE_TIMEOUT};
use cloudkv_test_harness::load::{ExchangeOutcome, NodeConnection};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{Bucket, HttpResponse, RawRequest};

/// Keys that a bucket of plan `free` may hold while these clients run.
pub(super) const KEY_LIMIT: u64 = 320;
/// Clients that fill a bucket together.
const WRITERS: u64 = 4;
/// New keys that each client tries after the first refusal.
const WRITES_AFTER_REFUSAL: u64 = 20;
/// Backoff after a response without effect, in milliseconds.
const RETRY_BACKOFF_MS: std::ops::Range<u64> = 5..50;

/// Fills buckets, one after the other.
pub(super) struct LimitClient {
    shared: Arc<ClientContext>,
    seed: u64,
    /// Number of buckets that were filled.
    pub filled_buckets: u64,
}

/// A bucket that is being filled.
struct BucketFill {
    path: String,
    /// Number of the next key.
    next_key: AtomicU64,
    acknowledged_keys: AtomicU64,
    /// Upper bound of the number of keys: writes that are under way, done, or of unknown outcome.
    possible_keys: AtomicU64,
    refused_writes: AtomicU64,
}

impl LimitClient {
    /// Creates clients of all nodes. Plan `free` has the limit [`KEY_LIMIT`].
    pub(super) fn new(shared: &Arc<ClientContext>, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            seed,
            filled_buckets: 0,
        }
    }

    /// Fills buckets until the run is stopped.
    pub(super) async fn run(mut self) -> Self {
        while !self.shared.is_stopped() {
            self.fill(false).await;
        }
        self
    }

    /// Fills one more bucket, once the region is healthy again.
    pub(super) async fn finish(&mut self) {
        let before = self.filled_buckets;
        self.fill(true).await;
        if self.filled_buckets == before {
            let anomaly = "no bucket was filled up to its limit at the end";
            self.shared.history.record_anomaly(anomaly.into());
        }
    }

    async fn fill(&mut self, until_refused: bool) {
        self.seed += 1;
        let mut rng = Rng::derived(self.seed, 0x11417);
        let Some(bucket) = self.create(&mut rng).await else {
            return tokio::time::sleep(rng.millis(RETRY_BACKOFF_MS)).await;
        };
        let filling = BucketFill {
            path: bucket.listing_path(),
            next_key: AtomicU64::new(0),
            acknowledged_keys: AtomicU64::new(0),
            possible_keys: AtomicU64::new(0),
            refused_writes: AtomicU64::new(0),
        };
        let writers = (0..WRITERS).map(|writer| {
            let rng = Rng::derived(self.seed, writer);
            filling.write(&self.shared, rng, until_refused)
        });
        join_all(writers).await;
        self.filled_buckets += u64::from(filling.refused_writes.into_inner() > 0);
    }

    async fn create(&self, rng: &mut Rng) -> Option<Bucket> {
        let node = self.shared.nodes[rng.index(self.shared.nodes.len())];
        let request = RawRequest::new("POST", "/buckets").parse_body(b"");
        match NodeConnection::new(node, RESPONSE_TIMEOUT)
            .exchange(&request)
            .await
        {
            ExchangeOutcome::Response(response) if response.status == 201 => {
                Some(Bucket::from_response(&response))
            }
            ExchangeOutcome::Response(_)
            | ExchangeOutcome::NotSent
            | ExchangeOutcome::Closed
            | ExchangeOutcome::Lost => None,
        }
    }
}

impl BucketFill {
    /// Writes new keys until some were refused, or the run is stopped.
    async fn write(&self, shared: &ClientContext, mut rng: Rng, until_refused: bool) {
        let connections = shared
            .nodes
            .iter()
            .map(|node| NodeConnection::new(*node, RESPONSE_TIMEOUT));
        let mut connections: Vec<NodeConnection> = connections.collect();
        let mut refusals_left = WRITES_AFTER_REFUSAL;
        while refusals_left > 0 && (until_refused || !shared.is_stopped()) {
            let seat = rng.index(connections.len());
            let key = self.next_key.fetch_add(1, Ordering::SeqCst);
            let path = format!("{}/k{key}", self.path);
            self.possible_keys.fetch_add(1, Ordering::SeqCst);
            let request = RawRequest::new("PUT", &path).parse_body(b"v");
            let outcome = connections[seat].exchange(&request).await;
            match &outcome {
                ExchangeOutcome::Response(response) if response.status == 403 => {
                    self.possible_keys.fetch_sub(1, Ordering::SeqCst);
                    self.check_refusal(shared, seat);
                    refusals_left -= 1;
                }
                ExchangeOutcome::Response(response) => self.check_response(shared, seat, response),
                ExchangeOutcome::NotSent => {
                    self.possible_keys.fetch_sub(1, Ordering::SeqCst);
                }
                ExchangeOutcome::Closed | ExchangeOutcome::Lost => {}
            }
            if !matches!(&outcome, ExchangeOutcome::Response(response) if response.status == 200) {
                tokio::time::sleep(rng.millis(RETRY_BACKOFF_MS)).await;
            }
        }
    }

    fn check_refusal(&self, shared: &ClientContext, seat: usize) {
        self.refused_writes.fetch_add(1, Ordering::SeqCst);
        // Writes that began after this one count, too; that only makes the check less strict.
        let possible = self.possible_keys.load(Ordering::SeqCst);
        if possible < KEY_LIMIT {
            let anomaly =
                format!("node {seat} refuses a new key of at most {possible}, of {KEY_LIMIT}");
            shared.history.record_anomaly(anomaly);
        }
    }

    fn check_response(&self, shared: &ClientContext, seat: usize, response: &HttpResponse) {
        match response.status {
            200 => {
                let keys = self.acknowledged_keys.fetch_add(1, Ordering::SeqCst) + 1;
                if keys > KEY_LIMIT + KEY_LIMIT / 100 {
                    let anomaly = format!("node {seat} takes key {keys} of {KEY_LIMIT}");
                    shared.history.record_anomaly(anomaly);
                }
            }
            // The write was not done.
            503 => {
                self.possible_keys.fetch_sub(1, Ordering::SeqCst);
            }
            504 => {}
            _ => shared
                .history
                .record_anomaly(format!("node {seat} answers a new key with {response:?}")),
        }
    }
}
