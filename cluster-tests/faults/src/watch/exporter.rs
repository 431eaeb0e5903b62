//! Exports of a bucket under faults: from time to time it is exported, and each export that is
//! whole is followed from its token on, to the end of the run, when both together must be the
//! bucket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::bucket_export::{BucketExport, ExportOutcome, export};
use super::projection::{EXPORTED_FIELDS, wait_equal_fields};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::watch::{WatchClient, WatchOptions};
use cloudkv_test_harness::{ApiClient, Bucket};

/// Pause between two exports, in milliseconds.
const EXPORT_INTERVAL_MS: std::ops::Range<u64> = 2000..8000;

/// Maximum number of exports that are followed; beyond it the oldest is given up.
const MAX_FOLLOWED: usize = 4;

/// A client that goes on from the token of an export.
struct Follower {
    number: u64,
    client: WatchClient,
    api: ApiClient,
    options: WatchOptions,
}

impl Follower {
    /// Returns what the client has seen that no server may do, if it has seen such.
    fn failure(&self) -> Option<String> {
        let refusal = self.client.refusal();
        let refusal = refusal.map(|response| format!("an EventSource gives up: {response:?}"));
        let failure = self.client.failure().or(refusal)?;
        Some(format!("export {}, followed: {failure}", self.number))
    }

    async fn check(&self, limit: Duration) -> Option<String> {
        let copy = || match self.failure() {
            Some(failure) => Err(failure),
            None => Ok(self.client.copy()),
        };
        let equal = wait_equal_fields(&self.api, &self.options, &EXPORTED_FIELDS, limit, copy);
        let error = equal.await.err()?;
        let counts = self.client.counts();
        let number = self.number;
        Some(format!("export {number}, followed, {counts:?}: {error}"))
    }
}

/// Exports a bucket until the run is stopped.
pub(super) struct Exporter {
    bucket: Bucket,
    routers: Vec<SocketAddr>,
    /// True if a router knows several regions: the token of one means nothing to the others.
    has_regions: bool,
    rng: Rng,
    stop: Arc<AtomicBool>,
    followers: VecDeque<Follower>,
    exports: u64,
    whole: u64,
    partial: u64,
    refused: u64,
    without_token: u64,
    failures: Vec<String>,
}

impl Exporter {
    /// Creates a client of these routers.
    pub(super) fn new(
        bucket: &Bucket,
        routers: &[SocketAddr],
        has_regions: bool,
        rng: Rng,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            bucket: bucket.clone(),
            routers: routers.to_vec(),
            has_regions,
            rng,
            stop: stop.clone(),
            followers: VecDeque::new(),
            exports: 0,
            whole: 0,
            partial: 0,
            refused: 0,
            without_token: 0,
            failures: vec![],
        }
    }

    /// Exports until the run is stopped, or an export is wrong.
    pub(super) async fn run(mut self) -> Self {
        while !self.stop.load(Ordering::Relaxed) && self.failures.is_empty() {
            let pause = self.rng.millis(EXPORT_INTERVAL_MS);
            tokio::time::sleep(pause).await;
            self.export().await;
        }
        self
    }

    async fn export(&mut self) {
        let router = self.routers[self.rng.index(self.routers.len())];
        self.exports += 1;
        match export(router, &self.bucket).await {
            Ok(ExportOutcome::Complete(whole, region)) => self.follow(router, whole, &region),
            Ok(ExportOutcome::Partial) => self.partial += 1,
            Ok(ExportOutcome::Refused) => self.refused += 1,
            Err(failure) => self.failures.push(failure),
        }
    }

    fn follow(&mut self, router: SocketAddr, whole: BucketExport, region: &str) {
        self.whole += 1;
        let Some(since) = whole.since else {
            self.without_token += 1;
            return;
        };
        let mut options = WatchOptions {
            since: Some((since, whole.keys)),
            has_values: true,
            ..WatchOptions::new(&[router], &self.bucket)
        };
        if self.has_regions {
            let host = format!("api.{region}.cloudkv.io");
            options.headers.push(("host".to_owned(), host));
        }
        if self.followers.len() >= MAX_FOLLOWED {
            let oldest = self.followers.pop_front();
            self.failures.extend(oldest.and_then(|it| it.failure()));
        }
        self.followers.push_back(Follower {
            number: self.exports,
            client: WatchClient::start(options.clone()),
            api: ApiClient::new(router),
            options,
        });
    }

    /// Checks the exports that are followed, once nothing is written any more. If none was whole,
    /// one more is made, which must be. Returns what happened, and failures.
    pub(super) async fn finish(mut self, limit: Duration) -> (String, Vec<String>) {
        if self.followers.is_empty() {
            self.export().await;
        }
        if self.followers.is_empty() {
            let failure = "at the end no export is whole and has a token";
            self.failures.push(failure.to_owned());
        }
        let checks = self.followers.iter().map(|follower| follower.check(limit));
        let failed = join_all(checks).await.into_iter().flatten();
        self.failures.extend(failed);
        let followers = self.followers.iter();
        let undisturbed = followers.filter(|follower| follower.client.counts().resets == 0);
        let note = format!(
            "exports: {}, {} of them whole ({} without a token), {} broken off, {} refused; \
             followed to the end: {}, {} of them without a reset",
            self.exports,
            self.whole,
            self.without_token,
            self.partial,
            self.refused,
            self.followers.len(),
            undisturbed.count()
        );
        (note, self.failures)
    }
}
