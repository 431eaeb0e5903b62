//! Waiting for a condition, so that no test sleeps and hopes.

use std::future::Future;
use std::time::{Duration, Instant};

/// Time between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers `Some`, and hands that back.
///
/// # Panics
/// When `timeout` passes first; `what` says what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, timeout: Duration, probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    match try_eventually(timeout, probe).await {
        Some(found) => found,
        None => panic!("waited {timeout:?} in vain: {what}"),
    }
}

/// Asks `probe` until it answers `Some`, and hands that back; `None` when `timeout` passes first.
pub async fn try_eventually<T, F, Fut>(timeout: Duration, mut probe: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return Some(found);
        }
        if started.elapsed() >= timeout {
            return None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
