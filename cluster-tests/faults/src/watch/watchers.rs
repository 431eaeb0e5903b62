//! Clients that watch the bucket of a run, and what must hold of them at its end.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use cloudkv_test_harness::watch::{KeyVersion, WatchClient, WatchCounts, WatchModel, WatchOptions};
use cloudkv_test_harness::{ApiClient, Bucket, try_eventually};

/// Time for a write to be acknowledged once all is healthy.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client, and how it is checked.
struct Watcher {
    /// What it watches and how, for reports.
    name: String,
    client: WatchClient,
    /// API that lists the bucket for the comparison.
    api: ApiClient,
    /// Key that is written, and then deleted, at the end: the client must be told of both.
    last_key: String,
    #[cfg(test)]
    is_initial: bool,
}

/// All clients of a run.
#[derive(Default)]
pub(super) struct Watchers {
    watchers: Vec<Watcher>,
    bucket: Option<Bucket>,
}

impl Watchers {
    /// Starts a client of one bucket, which is that of all others.
    pub(super) fn start(&mut self, name: String, last_key: &str, options: WatchOptions) {
        let address = options.addresses[0];
        self.bucket = Some(options.bucket.clone());
        self.watchers.push(Watcher {
            name,
            api: ApiClient::new(address),
            #[cfg(test)]
            is_initial: options.is_initial,
            client: WatchClient::start(options),
            last_key: last_key.to_owned(),
        });
    }

    /// Waits until each client has begun to follow the bucket, and has listed it if it is to.
    #[cfg(test)]
    pub(super) async fn wait_started(&self, limit: Duration) {
        for watcher in &self.watchers {
            let client = &watcher.client;
            let started = client.wait_until("it has begun", limit, |counts, model| {
                model.is_ready() && (counts.lists > 0 || watcher.is_initial)
            });
            started.await.unwrap();
        }
    }

    /// Returns the number of clients.
    pub(super) fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Returns the sums of what all have seen.
    pub(super) fn counts(&self) -> WatchCounts {
        let mut sum = WatchCounts::default();
        for watcher in &self.watchers {
            add_counts(&mut sum, &watcher.client.counts());
        }
        sum
    }

    /// Checks all clients once nothing is written any more and all is healthy: each must be told of
    /// a last write, and of its deletion, and have what the bucket has. Writes through this API.
    /// Returns failures.
    pub(super) async fn check(&self, api: &ApiClient, limit: Duration) -> Vec<String> {
        let Some(bucket) = &self.bucket else {
            return vec![];
        };
        let mut failures = vec![];
        let mut versions = BTreeMap::new();
        let keys = self.watchers.iter().map(|watcher| &watcher.last_key);
        let mut keys: Vec<&String> = keys.collect();
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            match put(api, bucket, key).await {
                Some(version) => {
                    versions.insert(*key, version);
                }
                None => failures.push(format!("the last write of {key} is not acknowledged")),
            }
        }
        let written = self.watchers.iter().filter_map(|watcher| {
            let version = *versions.get(&watcher.last_key)?;
            Some(watcher.check_written(version, limit))
        });
        failures.extend(join_all(written).await.into_iter().flatten());
        if !failures.is_empty() {
            return failures;
        }
        for key in keys {
            if !delete(api, bucket, key).await {
                failures.push(format!("the deletion of {key} is not acknowledged"));
            }
        }
        let deleted = self.watchers.iter();
        let deleted = deleted.map(|watcher| watcher.check_deleted(limit));
        failures.extend(join_all(deleted).await.into_iter().flatten());
        failures
    }
}

impl Watcher {
    /// Waits until the client was told of a version of its last key, or of a later one, and has
    /// what the bucket has. Returns a failure.
    async fn check_written(&self, version: KeyVersion, limit: Duration) -> Option<String> {
        let what = format!("{} was written", self.last_key);
        self.check(&what, limit, |model| {
            let told = model.copy().get(&self.last_key).and_then(KeyVersion::of);
            told >= Some(version)
        })
        .await
    }

    /// Waits until the client was told that its last key was deleted, and has what the bucket has.
    async fn check_deleted(&self, limit: Duration) -> Option<String> {
        let what = format!("{} was deleted", self.last_key);
        self.check(&what, limit, |model| {
            !model.copy().contains_key(&self.last_key)
        })
        .await
    }

    async fn check(
        &self,
        what: &str,
        limit: Duration,
        is_told: impl Fn(&WatchModel) -> bool,
    ) -> Option<String> {
        let told = self
            .client
            .wait_until(what, limit, |_, model| is_told(model));
        let checked = match told.await {
            Ok(_) => self.client.wait_equal(&self.api, limit).await,
            Err(error) => Err(error),
        };
        let error = checked.err()?;
        Some(format!("watcher of {}, after {what}: {error}", self.name))
    }
}

/// Adds what a client has seen.
fn add_counts(sum: &mut WatchCounts, counts: &WatchCounts) {
    sum.streams += counts.streams;
    sum.ends += counts.ends;
    sum.breaks += counts.breaks;
    sum.failed_requests += counts.failed_requests;
    sum.puts += counts.puts;
    sum.deletes += counts.deletes;
    sum.expiries += counts.expiries;
    sum.readies += counts.readies;
    sum.resets += counts.resets;
    sum.lists += counts.lists;
}

/// Writes a key, again and again until that is acknowledged; returns its version.
async fn put(api: &ApiClient, bucket: &Bucket, key: &str) -> Option<KeyVersion> {
    let path = bucket.key_path(key);
    let acknowledged = try_eventually(WRITE_TIMEOUT, async || {
        let put = api.put(&path, "last").unchecked().try_send().await.ok()?;
        (put.status == 200).then(|| put.etag())
    });
    KeyVersion::parse(acknowledged.await?.trim_matches('"'))
}

/// Deletes a key, again and again until that is acknowledged.
async fn delete(api: &ApiClient, bucket: &Bucket, key: &str) -> bool {
    let path = bucket.key_path(key);
    let acknowledged = try_eventually(WRITE_TIMEOUT, async || {
        let deleted = api.delete(&path).unchecked().try_send().await.ok()?;
        (deleted.status == 200).then_some(())
    });
    acknowledged.await.is_some()
}
