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
        let worked = self.began.elapsed().min(LONGEST);
        let percent = self.turns.percent;
        let rest = worked * (100 - percent) / percent;
        *self.turns.rested.lock() = Some(Instant::now() + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works for so long in each of some turns; returns how long all of that took.
    async fn work(pace: &Pace, turns: u32, each: Duration) -> Duration {
        let began = Instant::now();
        for _ in 0..turns {
            let turn = pace.turn().await;
            turn.during(tokio::time::sleep(each)).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn rests_are_in_proportion_to_the_work() {
        let each = Duration::from_millis(10);
        // The rest after the last turn is nobody's.
        let expected = [(100, 100), (50, 190), (20, 460)];
        for (percent, took) in expected {
            let all = work(&Pace::new(percent), 10, each).await;
            let took = Duration::from_millis(took);
            assert!(all >= took && all < took + 2 * each, "{percent} %: {all:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_works_at_a_time() {
        let pace = Pace::new(50);
        let each = Duration::from_millis(10);
        let began = Instant::now();
        tokio::join!(
            work(&pace, 5, each),
            work(&pace, 5, each),
            work(&pace, 5, each)
        );
        assert!(began.elapsed() >= Duration::from_millis(15 * 10 + 14 * 10));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long_for_work_that_hangs() {
        let pace = Pace::new(50);
        let hangs = pace.turn().await;
        let hangs = tokio::spawn(hangs.during(std::future::pending::<()>()));
        let began = Instant::now();
        drop(pace.turn().await);
        assert!(began.elapsed() <= 3 * LONGEST);
        hangs.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_takes_no_turn() {
        let pace = Pace::new(50);
        let first = pace.turn().await;
        let given_up = tokio::time::timeout(Duration::from_millis(1), pace.turn()).await;
        assert!(given_up.is_err());
        drop(first);
        drop(pace.turn().await);
    }
}
