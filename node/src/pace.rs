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
const LONGEST: Duration = Duration::from_secs(1);

/// Scheduler of one kind of background work.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Turns>);

#[derive(Debug)]
struct Turns {
    /// Maximum share of the time for permits, in percent.
    percent: u32,
    one: Arc<Semaphore>,
    /// Time before which no permit is issued.
    rested: Mutex<Option<Instant>>,
}

/// Permit to work now; the rest begins when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    began: Instant,
    _one: Option<OwnedSemaphorePermit>,
}

impl Pace {
    /// Creates a scheduler whose permits take at most `percent` of the time; there is no rest if
    /// that is 100.
    pub fn new(percent: usize) -> Self {
        Self(Arc::new(Turns {
            percent: u32::try_from(percent).unwrap_or(100).clamp(1, 100),
            one: Arc::new(Semaphore::new(1)),
            rested: Mutex::new(None),
        }))
    }

    /// Waits for a permit, in the order of the calls. Cancel safe: a cancelled call loses nothing.
    pub async fn turn(&self) -> Turn {
        // The semaphore is never closed; if it were, work would continue without limit.
        let permit = self.0.one.clone().acquire_owned().await.ok();
        let next_start = *self.0.rested.lock();
        if let Some(next_start) = next_start {
            tokio::time::sleep_until(next_start).await;
        }
        Turn {
            turns: self.0.clone(),
            began: Instant::now(),
            _one: permit,
        }
    }
}

impl Turn {
    /// Runs `work` to its end. If that takes long, others get their permits before it has ended.
    pub async fn during<W: Future>(self, work: W) -> W::Output {
        let mut work = std::pin::pin!(work);
        if let Ok(output) = tokio::time::timeout(LONGEST, &mut work).await {
            return output;
        }
        drop(self);
        work.await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let rest = rest_after(self.began.elapsed(), self.turns.percent);
        *self.turns.rested.lock() = Some(Instant::now() + rest);
    }
}

fn rest_after(elapsed: Duration, percent: u32) -> Duration {
    elapsed.min(LONGEST) * (100 - percent) / percent
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rests_are_in_proportion_to_the_work() {
        for (percent, rest) in [(100, 0), (50, 10), (20, 40), (1, 990)] {
            assert_eq!(rest_after(10 * MS, percent), rest * MS, "{percent} %");
        }
    }

    #[tokio::test]
    async fn one_works_at_a_time_and_all_wait_for_the_rest() {
        let (scheduler, working) = (Pace::new(50), AtomicUsize::new(0));
        let started = Instant::now();
        let work = || async {
            for _ in 0..5 {
                let work = async {
                    assert_eq!(working.fetch_add(1, Ordering::Relaxed), 0);
                    tokio::time::sleep(3 * MS).await;
                    working.fetch_sub(1, Ordering::Relaxed);
                };
                scheduler.turn().await.during(work).await;
            }
        };
        tokio::join!(work(), work(), work());
        // No work waits for the rest after the last permit.
        assert!(started.elapsed() >= (15 + 14) * 3 * MS);
    }

    #[tokio::test]
    async fn hanging_work_does_not_block_others() {
        let scheduler = Pace::new(100);
        let hanging = scheduler.turn().await;
        let hanging = tokio::spawn(hanging.during(std::future::pending::<()>()));
        drop(scheduler.turn().await);
        assert!(!hanging.is_finished());
        hanging.abort();
    }

    #[tokio::test]
    async fn a_cancelled_wait_takes_no_permit() {
        let scheduler = Pace::new(50);
        let first = scheduler.turn().await;
        assert!(tokio::time::timeout(MS, scheduler.turn()).await.is_err());
        drop(first);
        drop(scheduler.turn().await);
    }
}
