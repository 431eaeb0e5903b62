//! Background work that leaves time for what users wait for.
//!
//! Such work takes turns: one at a time on this node, each followed by a rest in proportion to how
//! long it took. That is wall time: where processors or disks are busy a turn takes longer, and so
//! does the rest after it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A turn ends after so long even if its work hasn't: others don't wait for what hangs.
const LONGEST: Duration = Duration::from_secs(1);

/// The turns of one kind of work.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Turns>);

#[derive(Debug)]
struct Turns {
    /// Of the time, what turns may take, in percent.
    percent: u32,
    one: Arc<Semaphore>,
    /// No turn begins before.
    rested: Mutex<Option<Instant>>,
}

/// The right to work now; the rest begins when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    began: Instant,
    _one: Option<OwnedSemaphorePermit>,
}

impl Pace {
    /// Turns that take at most `percent` of the time; without any rest if that is 100.
    pub fn new(percent: usize) -> Self {
        Self(Arc::new(Turns {
            percent: u32::try_from(percent).unwrap_or(100).clamp(1, 100),
            one: Arc::new(Semaphore::new(1)),
            rested: Mutex::new(None),
        }))
    }

    /// Waits for a turn, behind those who asked before. Nothing is lost if that is given up.
    pub async fn turn(&self) -> Turn {
        // Never closed; if it were, work would go on unpaced.
        let one = self.0.one.clone().acquire_owned().await.ok();
        let rested = *self.0.rested.lock();
        if let Some(rested) = rested {
            tokio::time::sleep_until(rested).await;
        }
        Turn {
            turns: self.0.clone(),
            began: Instant::now(),
            _one: one,
        }
    }
}

impl Turn {
    /// Does `work`, however long it takes; others get their turn before it has ended if that is
    /// long.
    pub async fn during<W: Future>(self, work: W) -> W::Output {
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(LONGEST, &mut work).await {
            return done;
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

fn rest_after(worked: Duration, percent: u32) -> Duration {
    worked.min(LONGEST) * (100 - percent) / percent
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
    async fn one_works_at_a_time_and_then_all_rest() {
        let (pace, working) = (Pace::new(50), AtomicUsize::new(0));
        let began = Instant::now();
        let work = || async {
            for _ in 0..5 {
                let work = async {
                    assert_eq!(working.fetch_add(1, Ordering::Relaxed), 0);
                    tokio::time::sleep(3 * MS).await;
                    working.fetch_sub(1, Ordering::Relaxed);
                };
                pace.turn().await.during(work).await;
            }
        };
        tokio::join!(work(), work(), work());
        // The rest after the last turn is nobody's.
        assert!(began.elapsed() >= (15 + 14) * 3 * MS);
    }

    #[tokio::test]
    async fn nobody_waits_for_work_that_hangs() {
        let pace = Pace::new(100);
        let hangs = pace.turn().await;
        let hangs = tokio::spawn(hangs.during(std::future::pending::<()>()));
        drop(pace.turn().await);
        assert!(!hangs.is_finished());
        hangs.abort();
    }

    #[tokio::test]
    async fn who_gives_up_waiting_takes_no_turn() {
        let pace = Pace::new(50);
        let first = pace.turn().await;
        assert!(tokio::time::timeout(MS, pace.turn()).await.is_err());
        drop(first);
        drop(pace.turn().await);
    }
}
