//! Load by plain HTTP clients, for phases in which no error is allowed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::incompressible;
use super::plain_client::{PlainClient, PlainError};
use crate::rng::Rng;
use crate::{Bucket, HttpResponse, RawRequest, eventually};

/// Number of errors that are kept for the report.
const MAX_KEPT_ERRORS: usize = 10;

/// Maximum number of attempts to write a key of [`fill`].
const MAX_FILL_ATTEMPTS: u32 = 5;

/// Time for a load to make progress after a fault.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Access pattern of the clients.
#[derive(Clone, Copy, Debug)]
pub enum LoadPattern {
    /// Each client writes a key of its own and reads it again, which must return what it wrote.
    OwnKeys,
    /// All clients read and write, half of each, keys `0` to this one, which exist.
    AllKeys(u64),
    /// Each client writes new keys: client 3's are named [`new_key_name`]`(3, 0)` and so on.
    NewKeys,
    /// All clients write values of this many bytes to keys `0` to this one.
    Overwrite {
        /// Number of keys.
        keys: u64,
        /// Size of a value.
        bytes: usize,
    },
}

/// Returns the name of a client's key under [`LoadPattern::NewKeys`].
fn new_key_name(client: usize, number: u64) -> String {
    format!("{client}-{number}")
}

/// Load that continues until it is stopped.
#[derive(Debug)]
pub struct PlainLoad {
    shared: Arc<LoadState>,
    clients: Vec<JoinHandle<()>>,
}

/// Result of a load.
#[derive(Debug)]
pub struct PlainLoadResult {
    /// Requests that succeeded.
    pub requests: u64,
    /// Requests that were sent again because a connection was closed or refused.
    pub retries: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Failed writes with a 504 `unknown_outcome`: writes that were under way at a node when it
    /// failed. Nothing else may be lost with a node.
    pub unknown_outcomes: u64,
    /// The first errors.
    pub first_errors: Vec<String>,
}

#[derive(Debug)]
struct LoadState {
    nodes: Vec<SocketAddr>,
    bucket: Bucket,
    pattern: LoadPattern,
    /// Time from one request of a client to its next; `None`: no pause.
    send_interval: Option<Duration>,
    stop: AtomicBool,
    requests: AtomicU64,
    retries: AtomicU64,
    errors: AtomicU64,
    unknown_outcomes: AtomicU64,
    first_errors: Mutex<Vec<String>>,
    latencies: Mutex<Histogram<u64>>,
}

impl PlainLoad {
    /// Starts this many clients, spread over the nodes. With `rate`, they send so many requests per
    /// second together, whether or not responses arrive in time (an open loop).
    pub fn start(
        nodes: &[SocketAddr],
        bucket: &Bucket,
        clients: usize,
        work: LoadPattern,
        rate: Option<f64>,
    ) -> Self {
        let pace = rate.map(|rate| Duration::from_secs_f64(clients as f64 / rate));
        let shared = Arc::new(LoadState {
            nodes: nodes.to_vec(),
            bucket: bucket.clone(),
            pattern: work,
            send_interval: pace,
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            unknown_outcomes: AtomicU64::new(0),
            first_errors: Mutex::default(),
            latencies: Mutex::new(new_histogram()),
        });
        let clients = (0..clients).map(|number| tokio::spawn(run_client(shared.clone(), number)));
        Self {
            clients: clients.collect(),
            shared,
        }
    }

    /// Returns the number of requests that succeeded so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that failed so far.
    pub fn errors(&self) -> u64 {
        self.shared.errors.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have succeeded.
    pub async fn wait_progress(&self, more: u64) {
        let before = self.requests();
        eventually("the load makes progress", PROGRESS_TIMEOUT, async || {
            (self.requests() >= before + more).then_some(())
        })
        .await;
    }

    /// Returns latencies in microseconds since the last call.
    pub fn take_latencies(&self) -> Histogram<u64> {
        let mut latencies = self.shared.latencies.lock().expect("no client panics here");
        std::mem::replace(&mut latencies, new_histogram())
    }

    /// Stops the load.
    pub async fn stop(self) -> PlainLoadResult {
        self.shared.stop.store(true, Ordering::Relaxed);
        for result in join_all(self.clients).await {
            result.expect("the client task does not panic");
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shown = self
            .shared
            .first_errors
            .lock()
            .expect("no client panics here");
        PlainLoadResult {
            requests: read(&self.shared.requests),
            retries: read(&self.shared.retries),
            errors: read(&self.shared.errors),
            unknown_outcomes: read(&self.shared.unknown_outcomes),
            first_errors: shown.clone(),
        }
    }
}

/// A failed request.
struct FailedRequest {
    description: String,
    is_unknown: bool,
}

impl FailedRequest {
    fn of_read(error: PlainError) -> Self {
        Self {
            description: format!("GET: {error}"),
            is_unknown: false,
        }
    }

    fn of_write(error: PlainError) -> Self {
        let is_unknown = |response: &HttpResponse| {
            response.status == 504 && response.text().contains("unknown_outcome")
        };
        Self {
            description: format!("PUT: {error}"),
            is_unknown: matches!(&error, PlainError::Answered(response) if is_unknown(response)),
        }
    }
}

impl LoadState {
    fn record_failure(&self, failure: FailedRequest) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if failure.is_unknown {
            self.unknown_outcomes.fetch_add(1, Ordering::Relaxed);
        }
        let mut shown = self.first_errors.lock().expect("no client panics here");
        // Errors that may not happen tell more than those that may.
        if failure.is_unknown && shown.len() < MAX_KEPT_ERRORS {
            shown.push(failure.description);
        } else if !failure.is_unknown {
            shown.insert(0, failure.description);
            shown.truncate(MAX_KEPT_ERRORS);
        }
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("bounds of a histogram")
}

async fn run_client(shared: Arc<LoadState>, number: usize) {
    let mut plain = PlainClient::new(&shared.nodes, number);
    let mut rng = Rng::derived(0x91a1, number as u64);
    let mut written = None;
    let mut sent = 0;
    let mut due = Instant::now()
        + shared
            .send_interval
            .unwrap_or_default()
            .mul_f64(rng.range(0..1000) as f64 / 1000.0);
    while !shared.stop.load(Ordering::Relaxed) {
        match shared.send_interval {
            Some(pace) => {
                sleep_until(due).await;
                due += pace;
            }
            None => due = Instant::now(),
        }
        // A request that had to wait for the one before counts from when it was due.
        let began = shared.send_interval.map_or(due, |pace| due - pace);
        let result = match shared.pattern {
            LoadPattern::OwnKeys => use_own_key(&shared, &mut plain, number, &mut written).await,
            LoadPattern::AllKeys(keys) => use_any_key(&shared, &mut plain, &mut rng, keys).await,
            LoadPattern::NewKeys => put(&shared, &mut plain, &new_key_name(number, sent)).await,
            LoadPattern::Overwrite { keys, bytes } => {
                let request = write_request(&shared.bucket, rng.range(0..keys), bytes);
                plain
                    .send(&request)
                    .await
                    .map(drop)
                    .map_err(FailedRequest::of_write)
            }
        };
        sent += 1;
        match result {
            Ok(()) => {
                shared.requests.fetch_add(1, Ordering::Relaxed);
                let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                let mut latencies = shared.latencies.lock().expect("no client panics here");
                latencies.saturating_record(took);
            }
            Err(failure) => shared.record_failure(failure),
        }
    }
    shared.retries.fetch_add(plain.retries, Ordering::Relaxed);
}

fn write_request(bucket: &Bucket, key: u64, bytes: usize) -> RawRequest {
    let path = bucket.key_path(&key.to_string());
    RawRequest::new("PUT", &path).parse_body(incompressible::value(key, bytes))
}

/// Writes keys `0` to `keys` with values of this many bytes, by this many clients. Overloaded nodes
/// may answer that a write's outcome is unknown: then the write is repeated.
///
/// # Errors
/// Returns the first write that failed in all its attempts.
pub async fn fill(
    nodes: &[SocketAddr],
    bucket: &Bucket,
    clients: usize,
    keys: u64,
    bytes: usize,
) -> Result<(), PlainError> {
    let writers = (0..clients).map(|first| {
        let mut plain = PlainClient::new(nodes, first);
        let bucket = bucket.clone();
        tokio::spawn(async move {
            for key in (first as u64..keys).step_by(clients.max(1)) {
                let request = write_request(&bucket, key, bytes);
                let mut attempts = 1;
                while let Err(error) = plain.send(&request).await {
                    if attempts == MAX_FILL_ATTEMPTS {
                        return Err(error);
                    }
                    attempts += 1;
                }
            }
            Ok::<(), PlainError>(())
        })
    });
    for result in join_all(writers).await {
        result.expect("the writer task does not panic")?;
    }
    Ok(())
}

/// Writes a new value, or reads the last one.
async fn use_own_key(
    shared: &LoadState,
    plain: &mut PlainClient,
    number: usize,
    written: &mut Option<(u64, bool)>,
) -> Result<(), FailedRequest> {
    let path = shared.bucket.key_path(&format!("client-{number}"));
    match *written {
        Some((value, false)) => {
            let response = plain.send(&RawRequest::new("GET", &path)).await;
            let response = response.map_err(FailedRequest::of_read)?;
            *written = Some((value, true));
            let expected = value.to_string();
            if response.text() == expected {
                return Ok(());
            }
            Err(FailedRequest {
                description: format!("{path} should hold {expected}: {response:?}"),
                is_unknown: false,
            })
        }
        Some((_, true)) | None => {
            let value = written.map_or(1, |(value, _)| value + 1);
            let request = RawRequest::new("PUT", &path).parse_body(value.to_string().as_bytes());
            plain
                .send(&request)
                .await
                .map_err(FailedRequest::of_write)?;
            *written = Some((value, false));
            Ok(())
        }
    }
}

async fn use_any_key(
    shared: &LoadState,
    plain: &mut PlainClient,
    rng: &mut Rng,
    keys: u64,
) -> Result<(), FailedRequest> {
    let key = rng.range(0..keys).to_string();
    if rng.chance_permille(500) {
        let get = RawRequest::new("GET", &shared.bucket.key_path(&key));
        let sent = plain.send(&get).await;
        return sent.map(drop).map_err(FailedRequest::of_read);
    }
    put(shared, plain, &key).await
}

async fn put(shared: &LoadState, plain: &mut PlainClient, key: &str) -> Result<(), FailedRequest> {
    let request = RawRequest::new("PUT", &shared.bucket.key_path(key)).parse_body(&[b'v'; 100]);
    let sent = plain.send(&request).await;
    sent.map(drop).map_err(FailedRequest::of_write)
}
