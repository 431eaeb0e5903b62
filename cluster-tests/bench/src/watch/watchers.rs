//! Clients that watch a bucket, each on a connection of its own.

use super::event_scanner::{EventScanner, Scanned};
use crate::engine::{Latency, SentTimes, Stats};
use crate::streamed::StreamedResponse;
use anyhow::{Context, Result, bail, ensure};
use http_body_util::Empty;
use hyper::body::Bytes;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time for all watchers to be connected, and for the last event to reach all of them.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Number of connections that are being opened at once.
const MAX_OPENING: usize = 32;

/// Watchers of one bucket at one node.
pub(super) struct Watchers {
    shared: Arc<WatcherState>,
    tasks: JoinSet<Result<()>>,
}

/// State that all watchers share.
struct WatcherState {
    sent_times: Arc<SentTimes>,
    /// Keys before this one are written for the warm-up.
    first_measured_key: u64,
    /// Delays of all watchers' events.
    delays: Mutex<Stats>,
    ready: AtomicU64,
    /// Number of events of each watcher.
    events: Vec<AtomicU64>,
}

impl WatcherState {
    fn record_event(&self, watcher: usize, key: u64, now: Instant) {
        self.events[watcher].fetch_add(1, Ordering::Relaxed);
        if key >= self.first_measured_key
            && let Some(sent) = self.sent_times.get(key)
        {
            let delay = now.saturating_duration_since(sent);
            self.delays().record_success(delay);
        }
    }

    fn delays(&self) -> MutexGuard<'_, Stats> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchers {
    /// Connects all watchers, and waits until each has its stream. Keys are measured from the one
    /// with number `first_measured_key` on.
    pub(super) async fn start(
        node: SocketAddr,
        bucket: &str,
        count: usize,
        sent_times: &Arc<SentTimes>,
        first_measured_key: u64,
    ) -> Result<Self> {
        let shared = Arc::new(WatcherState {
            sent_times: sent_times.clone(),
            first_measured_key,
            delays: Mutex::new(Stats::new()?),
            ready: AtomicU64::new(0),
            events: (0..count).map(|_| AtomicU64::new(0)).collect(),
        });
        let opening = Arc::new(Semaphore::new(MAX_OPENING));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let path = format!("/kv/{bucket}");
            tasks.spawn(watch(node, path, number, shared.clone(), opening.clone()));
        }
        let mut watchers = Self { shared, tasks };
        let all = count as u64;
        watchers
            .wait_until("all watchers are connected", |shared| {
                shared.ready.load(Ordering::Relaxed) >= all
            })
            .await?;
        Ok(watchers)
    }

    /// Waits until each watcher has so many events.
    pub(super) async fn wait_events(&mut self, count: u64) -> Result<()> {
        self.wait_until("each watcher has all events", |shared| {
            let mut events = shared.events.iter();
            events.all(|events| events.load(Ordering::Relaxed) >= count)
        })
        .await
    }

    /// Waits until a stream ends, and returns the reason; for ever without watchers.
    pub(super) async fn next_end(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok(Ok(()))) => anyhow::anyhow!("a watcher's stream has ended"),
            Some(Ok(Err(error))) => error.context("a watcher"),
            Some(Err(error)) => anyhow::Error::new(error).context("a watcher's task"),
        }
    }

    /// Returns the number of events of all watchers.
    pub(super) fn events(&self) -> u64 {
        let events = self.shared.events.iter();
        events.map(|events| events.load(Ordering::Relaxed)).sum()
    }

    /// Returns the measured delays.
    pub(super) fn delays(&self) -> Latency {
        self.shared.delays().latency()
    }

    async fn wait_until(
        &mut self,
        what: &str,
        holds: impl Fn(&WatcherState) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !holds(&self.shared) {
            ensure!(
                Instant::now() < deadline,
                "not within {WAIT_TIMEOUT:?}: {what}; {} events in all",
                self.events()
            );
            if let Ok(reason) = timeout(POLL_INTERVAL, self.next_end()).await {
                return Err(reason);
            }
        }
        Ok(())
    }
}

/// Watches a bucket until its stream ends.
async fn watch(
    node: SocketAddr,
    path: String,
    number: usize,
    shared: Arc<WatcherState>,
    opening: Arc<Semaphore>,
) -> Result<()> {
    let mut permit = Some(opening.acquire_owned().await.context("open a stream")?);
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, "text/event-stream")
        .body(Empty::<Bytes>::new())
        .context("build request")?;
    let mut response = StreamedResponse::open(node, request).await?;
    let status = response.status;
    ensure!(status == http::StatusCode::OK, "status {status}");
    let mut scanner = EventScanner::default();
    while let Some(chunk) = response.next_chunk().await? {
        let now = Instant::now();
        let mut was_reset = false;
        scanner.push(&chunk, |scanned| match scanned {
            Scanned::Ready => {
                drop(permit.take());
                shared.ready.fetch_add(1, Ordering::Relaxed);
            }
            Scanned::Reset => was_reset = true,
            Scanned::Key(key) => shared.record_event(number, key, now),
        });
        ensure!(!was_reset, "it was reset: events may be missing");
    }
    bail!("its stream has ended")
}
