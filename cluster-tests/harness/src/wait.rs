//! Waits for conditions, so that no test sleeps for a guessed time.

use std::future::Future;
use std::time::{Duration, Instant};

/// Time between two evaluations of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` until it returns `Some`, and returns the value.
///
/// # Panics
/// Panics if `timeout` passes first; `what` describes the condition.
pub async fn eventually<T, F, Fut>(what: &str, timeout: Duration, probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    match try_eventually(timeout, probe).await {
        Some(value) => value,
        None => panic!("condition not met within {timeout:?}: {what}"),
    }
}

/// Calls `probe` until it returns `Some`, and returns the value; `None` if `timeout` passes first.
pub async fn try_eventually<T, F, Fut>(timeout: Duration, mut probe: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return Some(value);
        }
        if started.elapsed() >= timeout {
            return None;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
