//! The node's clock: it never jumps.
//!
//! It begins with the wall clock and moves on with the monotonic one. When the two drift apart,
//! because the wall clock was corrected or jumped, it follows by running up to 0.1 % faster or
//! slower, and no more: time to live and the order of versions don't see a jump.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::types::Nanos;

/// The most that the clock runs faster or slower, in parts per million.
const MAX_SLEW_PPM: i64 = 1000;
/// A difference is made up for over this time, if the bound allows.
const SLEW_OVER: Duration = Duration::from_secs(10);

/// A clock. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock {
    line: Arc<ArcSwap<Line>>,
    source: Arc<Source>,
}

/// The system's clock; with a file, that many milliseconds ahead, for tests of clocks that are off.
#[derive(Debug, Default)]
struct Source {
    file: Option<PathBuf>,
}

impl Source {
    fn wall(&self) -> Nanos {
        let text = self
            .file
            .as_ref()
            .and_then(|file| std::fs::read_to_string(file).ok());
        let ahead: i64 = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        wall().saturating_add_signed(ahead.saturating_mul(1_000_000))
    }
}

/// From `at`, where the clock shows `time`, it runs `ppm` faster than the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: Instant,
    time: Nanos,
    ppm: i64,
}

impl Line {
    fn read(&self, now: Instant) -> Nanos {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX / 2_000_000);
        let slewed = elapsed + elapsed * i128::from(self.ppm) / 1_000_000;
        self.time.saturating_add(u64::try_from(slewed).unwrap_or(0))
    }

    /// The line that goes on from `now` and bends towards `wall`.
    fn towards(&self, now: Instant, wall: Nanos) -> Self {
        let time = self.read(now);
        let behind = i128::from(wall) - i128::from(time);
        let over = i128::try_from(SLEW_OVER.as_nanos()).unwrap_or(i128::MAX);
        let wanted = behind * 1_000_000 / over;
        let bound = i128::from(MAX_SLEW_PPM);
        let ppm = i64::try_from(wanted.clamp(-bound, bound)).unwrap_or(0);
        Self { at: now, time, ppm }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that begins with the system's time.
    pub fn new() -> Self {
        Self::starting_at(wall())
    }

    /// A clock on which a file says how many milliseconds the system's time is off; none: it
    /// isn't.
    pub fn with_offset(file: Option<PathBuf>) -> Self {
        let source = Arc::new(Source { file });
        let time = source.wall();
        Self {
            source,
            ..Self::starting_at(time)
        }
    }

    fn starting_at(time: Nanos) -> Self {
        let line = Line {
            at: Instant::now(),
            time,
            ppm: 0,
        };
        Self {
            line: Arc::new(ArcSwap::from_pointee(line)),
            source: Arc::default(),
        }
    }

    /// The time.
    pub fn now(&self) -> Nanos {
        self.line.load().read(Instant::now())
    }

    /// Bends towards the system's time; to be called about once a second.
    pub fn discipline(&self) {
        let line = self.line.load().towards(Instant::now(), self.source.wall());
        self.line.store(Arc::new(line));
    }

    /// How far the system's clock is ahead of this one, in nanoseconds.
    pub fn behind_wall(&self) -> i64 {
        let behind = i128::from(self.source.wall()) - i128::from(self.now());
        i64::try_from(behind).unwrap_or(i64::MAX)
    }
}

fn wall() -> Nanos {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn line() -> Line {
        Line {
            at: Instant::now(),
            time: 1_000 * SECOND,
            ppm: 0,
        }
    }

    #[test]
    fn it_runs_with_the_monotonic_clock() {
        let line = line();
        let later = line.at + Duration::from_secs(5);
        assert_eq!(line.read(later), 1_005 * SECOND);
    }

    #[test]
    fn a_jump_of_the_wall_clock_bends_it_by_a_thousandth_at_most() {
        for jump in [600_i64, -600] {
            let line = line();
            let wall = line.time.saturating_add_signed(jump * SECOND as i64);
            let bent = line.towards(line.at, wall);
            assert_eq!(bent.read(bent.at), line.time);
            let after = bent.read(bent.at + Duration::from_secs(100)) - line.time;
            let expected = 100 * SECOND as i64 + jump.signum() * SECOND as i64 / 10;
            assert_eq!(after as i64, expected);
        }
    }

    #[test]
    fn a_small_drift_is_made_up_for() {
        let line = line();
        let bent = line.towards(line.at, line.time + SECOND / 1000);
        let ten = bent.at + Duration::from_secs(10);
        assert_eq!(bent.read(ten), line.time + 10 * SECOND + SECOND / 1000);
    }

    #[test]
    fn it_never_goes_back_whatever_the_wall_clock_does() {
        let clock = Clock::starting_at(50 * SECOND);
        let mut last = clock.now();
        for _ in 0..1000 {
            clock.discipline();
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
    }
}
