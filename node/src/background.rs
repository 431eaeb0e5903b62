//! Scheduler for background work that yields to users' requests.
//!
//! The scheduler issues one permit at a time on this node; each is followed by a rest in proportion
//! to the time that the work took. That is wall time: while processors or disks are busy the work
//! takes longer, and so does the rest after it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Maximum time of a permit: after that others don't wait for its work, which may hang.
const MAX_PERMIT_TIME: Duration = Duration::from_secs(1);

/// Scheduler of one kind of background work.
#[derive(Clone, Debug)]
pub struct BackgroundScheduler(Arc<SchedulerState>);

#[derive(Debug)]
struct SchedulerState {
    /// Maximum share of the time for permits, in percent.
    percent: u32,
    semaphore: Arc<Semaphore>,
    /// Time before which no permit is issued.
    next_start: Mutex<Option<Instant>>,
}

/// Permit to work now; the rest begins when it is dropped.
#[derive(Debug)]
pub struct BackgroundPermit {
    scheduler: Arc<SchedulerState>,
    started_at: Instant,
    _permit: Option<OwnedSemaphorePermit>,
}

impl BackgroundScheduler {
    /// Creates a scheduler whose permits take at most `percent` of the time; there is no rest if
    /// that is 100.
    pub fn new(percent: usize) -> Self {
        Self(Arc::new(SchedulerState {
            percent: u32::try_from(percent).unwrap_or(100).clamp(1, 100),
            semaphore: Arc::new(Semaphore::new(1)),
            next_start: Mutex::new(None),
        }))
    }

    /// Waits for a permit, in the order of the calls. Cancel safe: a cancelled call loses nothing.
    pub async fn acquire(&self) -> BackgroundPermit {
        // The semaphore is never closed; if it were, work would continue without limit.
        let permit = self.0.semaphore.clone().acquire_owned().await.ok();
        let next_start = *self.0.next_start.lock();
        if let Some(next_start) = next_start {
            tokio::time::sleep_until(next_start).await;
        }
        BackgroundPermit {
            scheduler: self.0.clone(),
            started_at: Instant::now(),
            _permit: permit,
        }
    }
}

impl BackgroundPermit {
    /// Runs `work` to its end. If that takes long, others get their permits before it has ended.
    pub async fn run<W: Future>(self, work: W) -> W::Output {
        let mut work = std::pin::pin!(work);
        if let Ok(output) = tokio::time::timeout(MAX_PERMIT_TIME, &mut work).await {
            return output;
        }
        drop(self);
        work.await
    }
}

impl Drop for BackgroundPermit {
    fn drop(&mut self) {
        let rest = rest_time(self.started_at.elapsed(), self.scheduler.percent);
        *self.scheduler.next_start.lock() = Some(Instant::now() + rest);
    }
}

fn rest_time(elapsed: Duration, percent: u32) -> Duration {
    elapsed.min(MAX_PERMIT_TIME) * (100 - percent) / percent
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rests_are_in_proportion_to_the_work() {
        for (percent, rest) in [(100, 0), (50, 10), (20, 40), (1, 990)] {
            assert_eq!(rest_time(10 * MS, percent), rest * MS, "{percent} %");
        }
    }

    #[tokio::test]
    async fn one_works_at_a_time_and_all_wait_for_the_rest() {
        let (scheduler, working) = (BackgroundScheduler::new(50), AtomicUsize::new(0));
        let started = Instant::now();
        let work = || async {
            for _ in 0..5 {
                let work = async {
                    assert_eq!(working.fetch_add(1, Ordering::Relaxed), 0);
                    tokio::time::sleep(3 * MS).await;
                    working.fetch_sub(1, Ordering::Relaxed);
                };
                scheduler.acquire().await.run(work).await;
            }
        };
        tokio::join!(work(), work(), work());
        // No work waits for the rest after the last permit.
        assert!(started.elapsed() >= (15 + 14) * 3 * MS);
    }

    #[tokio::test]
    async fn hanging_work_does_not_block_others() {
        let scheduler = BackgroundScheduler::new(100);
        let hanging = scheduler.acquire().await;
        let hanging = tokio::spawn(hanging.run(std::future::pending::<()>()));
        drop(scheduler.acquire().await);
        assert!(!hanging.is_finished());
        hanging.abort();
    }

    #[tokio::test]
    async fn a_cancelled_wait_takes_no_permit() {
        let scheduler = BackgroundScheduler::new(50);
        let first = scheduler.acquire().await;
        assert!(tokio::time::timeout(MS, scheduler.acquire()).await.is_err());
        drop(first);
        drop(scheduler.acquire().await);
    }
}
