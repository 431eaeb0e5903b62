//! Memory of nodes while other work runs.

use crate::procfs::MemoryUsage;
use anyhow::Result;
use std::future::Future;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// Waits for `work` and returns its result with the highest memory use of a process meanwhile.
pub(crate) async fn peak_during<T>(
    pid: u32,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, MemoryUsage)> {
    let mut highest = MemoryUsage::of_process(pid)?;
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return Ok((result?, highest)),
            _ = ticks.tick() => {
                let now = MemoryUsage::of_process(pid)?;
                highest.rss = highest.rss.max(now.rss);
                highest.peak = highest.peak.max(now.peak);
                highest.anonymous = highest.anonymous.max(now.anonymous);
            }
        }
    }
}
