//! Clock of the node, which never jumps.
//!
//! It starts with the wall clock and advances with the monotonic clock. When the two drift apart,
//! because the wall clock was corrected or jumped, it is slewed: it runs up to 0.1 % faster or
//! slower, and no more, so that expiry and the order of versions don't see a jump.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use cloudkv_common::telemetry::metrics::Exposition;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::types::Nanos;

/// Maximum slew of the clock, in parts per million.
const MAX_SLEW_PPM: i64 = 1000;
/// Time over which a difference is corrected, within the maximum slew.
const SLEW_PERIOD: Duration = Duration::from_secs(10);
/// Interval at which the slew is adjusted.
const DISCIPLINE_INTERVAL: Duration = Duration::from_secs(1);

/// Clock of the node. Clones share their state.
#[derive(Clone, Debug)]
pub struct Clock {
    state: Arc<ArcSwap<LinearClock>>,
    wall_clock: Arc<WallClock>,
}

/// Wall clock of the system; with a file, that many milliseconds ahead, for tests of wrong clocks.
#[derive(Debug, Default)]
struct WallClock {
    offset_file: Option<PathBuf>,
}

impl WallClock {
    fn now(&self) -> Nanos {
        let content = self
            .offset_file
            .as_ref()
            .and_then(|file| std::fs::read_to_string(file).ok());
        let ahead: i64 = content
            .and_then(|content| content.trim().parse().ok())
            .unwrap_or(0);
        system_time().saturating_add_signed(ahead.saturating_mul(1_000_000))
    }
}

/// Linear clock: it shows `time` at `at`, and from there runs `ppm` parts per million faster than
/// the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct LinearClock {
    origin: Instant,
    time: Nanos,
    slew_ppm: i64,
}

impl LinearClock {
    fn read(&self, now: Instant) -> Nanos {
        let elapsed = now.saturating_duration_since(self.origin).as_nanos();
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX / 2_000_000);
        let slewed = elapsed + elapsed * i128::from(self.slew_ppm) / 1_000_000;
        self.time.saturating_add(u64::try_from(slewed).unwrap_or(0))
    }

    /// Returns the clock that continues from `now` and is slewed towards `wall`.
    fn slewed_towards(&self, now: Instant, wall: Nanos) -> Self {
        let time = self.read(now);
        let behind = i128::from(wall) - i128::from(time);
        let period = i128::try_from(SLEW_PERIOD.as_nanos()).unwrap_or(i128::MAX);
        let needed = behind * 1_000_000 / period;
        let bound = i128::from(MAX_SLEW_PPM);
        let ppm = i64::try_from(needed.clamp(-bound, bound)).unwrap_or(0);
        Self {
            origin: now,
            time,
            slew_ppm: ppm,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Creates a clock that starts with the system's time.
    pub fn new() -> Self {
        Self::starting_at(system_time())
    }

    /// Creates a clock whose wall clock is off by the milliseconds in a file; without a file it
    /// isn't.
    pub fn with_offset(file: Option<PathBuf>) -> Self {
        let wall_clock = Arc::new(WallClock { offset_file: file });
        let time = wall_clock.now();
        Self {
            wall_clock,
            ..Self::starting_at(time)
        }
    }

    fn starting_at(time: Nanos) -> Self {
        let state = LinearClock {
            origin: Instant::now(),
            time,
            slew_ppm: 0,
        };
        Self {
            state: Arc::new(ArcSwap::from_pointee(state)),
            wall_clock: Arc::default(),
        }
    }

    /// Current time.
    pub fn now(&self) -> Nanos {
        self.state.load().read(Instant::now())
    }

    /// Slews towards the system's time; to be called about once a second.
    fn discipline(&self) {
        let slewed = self
            .state
            .load()
            .slewed_towards(Instant::now(), self.wall_clock.now());
        self.state.store(Arc::new(slewed));
    }

    /// Slews towards the system's time periodically, until `stop`.
    pub async fn run_discipline(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(DISCIPLINE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.discipline();
        }
    }

    /// Difference by which the system's clock is ahead of this one, in nanoseconds.
    pub fn wall_clock_offset(&self) -> i64 {
        let difference = i128::from(self.wall_clock.now()) - i128::from(self.now());
        i64::try_from(difference).unwrap_or(i64::MAX)
    }

    /// Describes the clock: fields of the node's status.
    pub(crate) fn status(&self) -> Value {
        json!({ "clock_behind_wall_ms": self.wall_clock_offset() / 1_000_000 })
    }

    /// Writes the metrics of the clock.
    pub(crate) fn write_metrics(&self, text: &mut Exposition) {
        let behind = self.wall_clock_offset() as f64 / 1e9;
        let help = "Time that the system's clock is ahead of the node's.";
        text.gauge("cloudkv_clock_behind_wall_seconds", help, &[], behind);
    }
}

fn system_time() -> Nanos {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn test_clock() -> LinearClock {
        LinearClock {
            origin: Instant::now(),
            time: 1_000 * SECOND,
            slew_ppm: 0,
        }
    }

    #[test]
    fn it_runs_with_the_monotonic_clock() {
        let clock = test_clock();
        let then = clock.origin + Duration::from_secs(5);
        assert_eq!(clock.read(then), 1_005 * SECOND);
    }

    #[test]
    fn a_jump_of_the_wall_clock_slews_it_by_a_thousandth_at_most() {
        for jump in [600_i64, -600] {
            let clock = test_clock();
            let wall = clock.time.saturating_add_signed(jump * SECOND as i64);
            let slewed = clock.slewed_towards(clock.origin, wall);
            assert_eq!(slewed.read(slewed.origin), clock.time);
            let after = slewed.read(slewed.origin + Duration::from_secs(100)) - clock.time;
            let expected = 100 * SECOND as i64 + jump.signum() * SECOND as i64 / 10;
            assert_eq!(after as i64, expected);
        }
    }

    #[test]
    fn a_small_drift_is_corrected() {
        let clock = test_clock();
        let slewed = clock.slewed_towards(clock.origin, clock.time + SECOND / 1000);
        let later = slewed.origin + Duration::from_secs(10);
        assert_eq!(slewed.read(later), clock.time + 10 * SECOND + SECOND / 1000);
    }

    #[test]
    fn it_never_goes_back() {
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
