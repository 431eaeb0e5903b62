//! A client that watches a bucket and reconnects as a browser's `EventSource` does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::bucket_copy::{BucketCopy, describe_difference};
use super::client_state::SharedClient;
use super::client_task;
use super::listing::list_bucket;
use super::model::WatchModel;
use super::options::{WatchCounts, WatchOptions};
use crate::http::ApiClient;
use crate::response::HttpResponse;

/// Time between two comparisons of the copy with the bucket.
const COMPARE_INTERVAL: Duration = Duration::from_millis(50);

/// A client that watches a bucket until it is dropped. Its task belongs to the runtime that starts
/// it.
#[derive(Debug)]
pub struct WatchClient {
    shared: Arc<SharedClient>,
    task: JoinHandle<()>,
}

impl WatchClient {
    /// Starts a client.
    pub fn start(options: WatchOptions) -> Self {
        let shared = Arc::new(SharedClient::new(options));
        let task = tokio::spawn(client_task::run(shared.clone()));
        Self { shared, task }
    }

    /// Returns its copy of the watched keys.
    pub fn copy(&self) -> BucketCopy {
        self.shared.state().model.copy().clone()
    }

    /// Returns what it has seen so far.
    pub fn counts(&self) -> WatchCounts {
        self.shared.state().counts
    }

    /// Returns its last event ID; empty: it has none.
    pub fn last_event_id(&self) -> String {
        self.shared.state().last_event_id.clone()
    }

    /// Returns the response after which it gave up, if it did.
    pub fn refusal(&self) -> Option<HttpResponse> {
        self.shared.state().refusal.clone()
    }

    /// Returns what it has seen that no server may do.
    pub fn failure(&self) -> Option<String> {
        self.shared.state().failure.clone()
    }

    /// Ends its connection, so that it reconnects to the next address.
    pub fn reconnect(&self) {
        self.shared.reconnect.notify_one();
    }

    /// Waits until a condition on what it has seen holds.
    ///
    /// # Errors
    /// Returns why the condition can't hold any more, or that the time is over.
    pub async fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        holds: impl Fn(&WatchCounts, &WatchModel) -> bool,
    ) -> Result<WatchCounts, String> {
        let started = Instant::now();
        loop {
            {
                let state = self.shared.state();
                if holds(&state.counts, &state.model) {
                    return Ok(state.counts);
                }
            }
            self.check()?;
            if started.elapsed() >= limit {
                let state = self.counts();
                return Err(format!(
                    "condition not met within {limit:?}: {what}: {state:?}"
                ));
            }
            tokio::time::sleep(COMPARE_INTERVAL).await;
        }
    }

    /// Waits until it has been told that all that was there is there.
    ///
    /// # Errors
    /// As of [`WatchClient::wait_until`].
    pub async fn wait_ready(&self, limit: Duration) -> Result<WatchCounts, String> {
        let is_ready = |_: &WatchCounts, model: &WatchModel| model.is_ready();
        self.wait_until("the stream is ready", limit, is_ready)
            .await
    }

    /// Waits until its copy is the bucket, as this API lists it.
    ///
    /// # Errors
    /// Returns why they can't be equal any more, or in what they differ when the time is over.
    pub async fn wait_equal(
        &self,
        api: &ApiClient,
        limit: Duration,
    ) -> Result<WatchCounts, String> {
        let started = Instant::now();
        loop {
            self.check()?;
            let difference = match list_bucket(api, &self.shared.options).await {
                Ok(bucket) => describe_difference(&self.copy(), &bucket),
                Err(response) => Some(format!("the bucket isn't listed: {response:?}")),
            };
            let Some(difference) = difference else {
                self.check()?;
                return Ok(self.counts());
            };
            if started.elapsed() >= limit {
                let counts = self.counts();
                return Err(format!("after {limit:?} and {counts:?} {difference}"));
            }
            tokio::time::sleep(COMPARE_INTERVAL).await;
        }
    }

    /// Returns an error if the client doesn't run any more.
    fn check(&self) -> Result<(), String> {
        let state = self.shared.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        match &state.refusal {
            Some(response) => Err(format!("an EventSource gives up: {response:?}")),
            None if self.task.is_finished() => Err("the client's task has ended".to_owned()),
            None => Ok(()),
        }
    }
}

impl Drop for WatchClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}
