//! Key limits under faults: clients fill a bucket until a new key is refused, then another one.
//!
//! A refusal below the limit is wrong, and so is an overshoot of more than 1 %. Every acknowledged
//! key counts; a key of unknown outcome may count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;

use super::client::{PATIENCE, Shared};
use super::line::{Line, Reply};
use crate::harness::{Answer, Bucket, RawRequest};
use crate::rng::Rng;

/// Keys that a bucket of plan `free` may hold while these clients run.
pub(super) const LIMIT: u64 = 320;
/// Clients that fill a bucket together.
const WRITERS: u64 = 4;
/// New keys that each client tries after the first refusal.
const MORE: u64 = 20;
/// Backoff after a response without effect, in milliseconds.
const RETRY_PAUSE: std::ops::Range<u64> = 5..50;

/// Fills buckets, one after the other.
pub(super) struct LimitClient {
    shared: Arc<Shared>,
    seed: u64,
    /// Number of buckets that were filled.
    pub filled: u64,
}

/// A bucket that is being filled.
struct Filling {
    path: String,
    /// Number of the next key.
    tried: AtomicU64,
    acknowledged: AtomicU64,
    /// Upper bound of the number of keys: writes that are under way, done, or of unknown outcome.
    possible: AtomicU64,
    refused: AtomicU64,
}

impl LimitClient {
    /// Creates clients of all nodes. Plan `free` has the limit [`KEY_LIMIT`].
    pub fn new(shared: &Arc<Shared>, seed: u64) -> Self {
        Self {
            shared: shared.clone(),
            seed,
            filled: 0,
        }
    }

    /// Fills buckets until the run is stopped.
    pub async fn run(mut self) -> Self {
        while !self.shared.stopped() {
            self.fill(false).await;
        }
        self
    }

    /// Fills one more bucket, once the region is healthy again.
    pub async fn finish(&mut self) {
        let before = self.filled;
        self.fill(true).await;
        if self.filled == before {
            let anomaly = "no bucket was filled up to its limit at the end";
            self.shared.ledger.odd(anomaly.into());
        }
    }

    async fn fill(&mut self, until_refused: bool) {
        self.seed += 1;
        let mut rng = Rng::branch(self.seed, 0x11417);
        let Some(bucket) = self.create(&mut rng).await else {
            return tokio::time::sleep(rng.millis(RETRY_PAUSE)).await;
        };
        let filling = Filling {
            path: bucket.keys(),
            tried: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            possible: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        let writers = (0..WRITERS).map(|writer| {
            let rng = Rng::branch(self.seed, writer);
            filling.write(&self.shared, rng, until_refused)
        });
        join_all(writers).await;
        self.filled += u64::from(filling.refused.into_inner() > 0);
    }

    async fn create(&self, rng: &mut Rng) -> Option<Bucket> {
        let node = self.shared.nodes[rng.index(self.shared.nodes.len())];
        let request = RawRequest::new("POST", "/buckets").body(b"");
        match Line::new(node, PATIENCE).exchange(&request).await {
            Reply::Answer(response) if response.status == 201 => Some(Bucket::from_answer(&response)),
            Reply::Answer(_) | Reply::NotSent | Reply::Closed | Reply::Lost => None,
        }
    }
}

impl Filling {
    /// Writes new keys until some were refused, or the run is stopped.
    async fn write(&self, shared: &Shared, mut rng: Rng, until_refused: bool) {
        let connections = shared.nodes.iter().map(|node| Line::new(*node, PATIENCE));
        let mut connections: Vec<Line> = connections.collect();
        let mut refusals_left = MORE;
        while refusals_left > 0 && (until_refused || !shared.stopped()) {
            let seat = rng.index(connections.len());
            let key = self.tried.fetch_add(1, Ordering::SeqCst);
            let path = format!("{}/k{key}", self.path);
            self.possible.fetch_add(1, Ordering::SeqCst);
            let request = RawRequest::new("PUT", &path).body(b"v");
            let outcome = connections[seat].exchange(&request).await;
            match &outcome {
                Reply::Answer(response) if response.status == 403 => {
                    self.possible.fetch_sub(1, Ordering::SeqCst);
                    self.refused(shared, seat);
                    refusals_left -= 1;
                }
                Reply::Answer(response) => self.answered(shared, seat, response),
                Reply::NotSent => {
                    self.possible.fetch_sub(1, Ordering::SeqCst);
                }
                Reply::Closed | Reply::Lost => {}
            }
            if !matches!(&outcome, Reply::Answer(response) if response.status == 200) {
                tokio::time::sleep(rng.millis(RETRY_PAUSE)).await;
            }
        }
    }

    fn refused(&self, shared: &Shared, seat: usize) {
        self.refused.fetch_add(1, Ordering::SeqCst);
        // Writes that began after this one count, too; that only makes the check less strict.
        let possible = self.possible.load(Ordering::SeqCst);
        if possible < LIMIT {
            let anomaly = format!("node {seat} refuses a new key of at most {possible}, of {LIMIT}");
            shared.ledger.odd(anomaly);
        }
    }

    fn answered(&self, shared: &Shared, seat: usize, response: &Answer) {
        match response.status {
            200 => {
                let keys = self.acknowledged.fetch_add(1, Ordering::SeqCst) + 1;
                if keys > LIMIT + LIMIT / 100 {
                    let anomaly = format!("node {seat} takes key {keys} of {LIMIT}");
                    shared.ledger.odd(anomaly);
                }
            }
            // The write was not done.
            503 => {
                self.possible.fetch_sub(1, Ordering::SeqCst);
            }
            504 => {}
            _ => shared
                .ledger
                .odd(format!("node {seat} answers a new key with {response:?}")),
        }
    }
}
