//! Bucket listings under faults: once a bucket was created, every node lists it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::recording_client::{ClientContext, RESPONSE_TIMEOUT};
use cloudkv_test_harness::load::{ExchangeOutcome, NodeConnection};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{Bucket, HttpResponse, RawRequest};

/// Maximum number of buckets; more would only make the lists long.
const MAX_BUCKETS: usize = 300;

/// Pause between two calls, in milliseconds.
const CALL_INTERVAL_MS: std::ops::Range<u64> = 50..400;

/// A client that creates buckets and lists them. No other client uses its account.
pub(super) struct BucketListClient {
    shared: Arc<ClientContext>,
    account: String,
    connections: Vec<NodeConnection>,
    rng: Rng,
    /// Comments of buckets whose creation was acknowledged, and of those that may exist.
    acknowledged: BTreeSet<String>,
    possible: BTreeSet<String>,
    /// Number of lists that were correct.
    pub lists: u64,
}

impl BucketListClient {
    /// Creates a client of the account of `first`, the account's first bucket.
    pub(super) fn new(shared: &Arc<ClientContext>, first: &Bucket, seed: u64) -> Self {
        let nodes = shared.nodes.iter();
        Self {
            shared: shared.clone(),
            account: first.account.clone(),
            connections: nodes
                .map(|node| NodeConnection::new(*node, RESPONSE_TIMEOUT))
                .collect(),
            rng: Rng::derived(seed, 0xd12),
            acknowledged: BTreeSet::new(),
            possible: BTreeSet::new(),
            lists: 0,
        }
    }

    /// Calls until the run is stopped.
    pub(super) async fn run(mut self) -> Self {
        while !self.shared.is_stopped() {
            let seat = self.rng.index(self.connections.len());
            if self.possible.len() < MAX_BUCKETS && self.rng.chance_permille(500) {
                self.create(seat).await;
            } else {
                self.list(seat).await;
            }
            tokio::time::sleep(self.rng.millis(CALL_INTERVAL_MS)).await;
        }
        self
    }

    /// Lists the buckets through every node, once the region is healthy again.
    pub(super) async fn finish(&mut self) {
        for seat in 0..self.connections.len() {
            let before = self.lists;
            for _ in 0..200 {
                self.list(seat).await;
                if self.lists > before {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if self.lists == before {
                let anomaly = format!("node {seat} doesn't list buckets at the end");
                self.shared.history.record_anomaly(anomaly);
            }
        }
    }

    async fn create(&mut self, seat: usize) {
        let comment = format!("bucket-{}", self.possible.len());
        self.possible.insert(comment.clone());
        let path = format!("/buckets?plan=pro&comment={comment}");
        let request = RawRequest::new("POST", &path).header("api-key", &self.account);
        match self.connections[seat]
            .exchange(&request.parse_body(b""))
            .await
        {
            ExchangeOutcome::Response(response) if response.status == 201 => {
                self.acknowledged.insert(comment);
            }
            ExchangeOutcome::Response(response) => self.expect_unavailable(seat, &response),
            ExchangeOutcome::NotSent | ExchangeOutcome::Closed | ExchangeOutcome::Lost => {}
        }
    }

    async fn list(&mut self, seat: usize) {
        let request = RawRequest::new("GET", "/buckets").header("api-key", &self.account);
        let expected = self.acknowledged.clone();
        let response = match self.connections[seat].exchange(&request).await {
            ExchangeOutcome::Response(response) if response.status == 200 => response,
            ExchangeOutcome::Response(response) => return self.expect_unavailable(seat, &response),
            ExchangeOutcome::NotSent | ExchangeOutcome::Closed | ExchangeOutcome::Lost => return,
        };
        let buckets = response.json()["buckets"].take();
        let comments = buckets.as_array().into_iter().flatten();
        let comments = comments.filter_map(|bucket| bucket["comment"].as_str().map(str::to_owned));
        let comments: BTreeSet<String> = comments.collect();
        if expected.is_subset(&comments) && comments.is_subset(&self.possible) {
            self.lists += 1;
        } else {
            let missing: Vec<_> = expected.difference(&comments).collect();
            let unexpected: Vec<_> = comments.difference(&self.possible).collect();
            let anomaly =
                format!("the list of node {seat} lacks {missing:?} and invents {unexpected:?}");
            self.shared.history.record_anomaly(anomaly);
        }
    }

    fn expect_unavailable(&self, seat: usize, response: &HttpResponse) {
        if !matches!(response.status, 503 | 504) {
            let code: Value = response.json()["error"].take();
            let anomaly = format!("node {seat} answers {code} to the owner: {response:?}");
            self.shared.history.record_anomaly(anomaly);
        }
    }
}
