//! Choice of the current region, which the global name selects.
//!
//! Invariant: it changes only when the current region has been unhealthy for [`UNHEALTHY_TIMEOUT`],
//! or another one nearer for [`SLOWER_TIMEOUT`]. With every change, clients may not see their own
//! latest writes, so a better region alone is no reason. Time is passed in.
//!
//! The first choice is the router's home region. Regions become known one after the other, so the
//! home region gets [`UNHEALTHY_TIMEOUT`] to become healthy; another one is used until then.

use std::fmt;
use std::time::{Duration, Instant};

/// Time after which an unhealthy region is replaced.
const UNHEALTHY_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which a region that is slower than another is replaced.
const SLOWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Minimum difference between round trips; smaller ones are noise.
const MIN_ROUND_TRIP_DIFFERENCE: Duration = Duration::from_millis(1);

/// State of a region at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionSample {
    /// Number of the region.
    pub region: u32,
    /// True if all of its shards can be served.
    pub is_healthy: bool,
    /// Round trip to the region, if known.
    pub round_trip: Option<Duration>,
}

/// Reason for which a region was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChoiceReason {
    /// It is the router's home region.
    Home,
    /// The home region is unhealthy, or unknown.
    NoHome,
    /// The region before was unhealthy for too long.
    Unhealthy,
    /// The region before was slower for too long.
    Slower,
    /// The region before was removed.
    Removed,
}

impl fmt::Display for ChoiceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => f.write_str("it is the router's region"),
            Self::NoHome => f.write_str("no node serves all of the router's region"),
            Self::Unhealthy => write!(
                f,
                "the one before couldn't be served completely for {UNHEALTHY_TIMEOUT:?}"
            ),
            Self::Slower => write!(f, "it has been nearer for {SLOWER_TIMEOUT:?}"),
            Self::Removed => f.write_str("the one before was removed"),
        }
    }
}

/// Choice of a region that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionDecision {
    /// Region before; `None`: it is the first choice.
    pub from: Option<u32>,
    /// Chosen region.
    pub to: u32,
    /// Reason for it.
    pub reason: ChoiceReason,
}

/// The current choice, and since when there has been a reason to change it.
#[derive(Debug, Default)]
pub(crate) struct RegionChoice {
    current: Option<u32>,
    /// The last choice, until it is taken.
    decision: Option<RegionDecision>,
    /// State of the current region, or of the home region before the first choice.
    unhealthy_since: Option<Instant>,
    slower_since: Option<(u32, Instant)>,
}

impl RegionChoice {
    /// Updates the choice from new samples of all regions, and returns the current region; `home`
    /// is the region of the router.
    pub(crate) fn update(
        &mut self,
        now: Instant,
        regions: &[RegionSample],
        home: Option<u32>,
    ) -> Option<u32> {
        let sample_of = |number: u32| regions.iter().find(|sample| sample.region == number);
        let Some(current) = self.current.and_then(sample_of).copied() else {
            return self.choose_first(now, regions, home);
        };
        let best = nearest(
            regions
                .iter()
                .filter(|other| other.region != current.region),
        );
        if current.is_healthy {
            self.unhealthy_since = None;
            let nearer = best.filter(|best| is_slower(&current, best));
            return self.wait_for_nearer(now, current.region, nearer);
        }
        self.slower_since = None;
        let since = *self.unhealthy_since.get_or_insert(now);
        match best {
            Some(best) if now.saturating_duration_since(since) >= UNHEALTHY_TIMEOUT => {
                self.choose(best.region, ChoiceReason::Unhealthy)
            }
            Some(_) | None => Some(current.region),
        }
    }

    fn choose_first(
        &mut self,
        now: Instant,
        regions: &[RegionSample],
        home: Option<u32>,
    ) -> Option<u32> {
        let first = first_region(regions, home)?;
        let since = *self.unhealthy_since.get_or_insert(now);
        let is_waiting = home.is_some() && now.saturating_duration_since(since) < UNHEALTHY_TIMEOUT;
        let is_healthy_home = |it: &RegionSample| Some(it.region) == home && it.is_healthy;
        if is_waiting && !regions.iter().any(is_healthy_home) {
            return Some(first);
        }
        let reason = match home {
            _ if self.current.is_some() => ChoiceReason::Removed,
            Some(home) if home == first => ChoiceReason::Home,
            Some(_) | None => ChoiceReason::NoHome,
        };
        self.choose(first, reason)
    }

    fn wait_for_nearer(
        &mut self,
        now: Instant,
        current: u32,
        nearer: Option<RegionSample>,
    ) -> Option<u32> {
        let Some(nearer) = nearer else {
            self.slower_since = None;
            return Some(current);
        };
        let since = match self.slower_since {
            Some((_, since)) => since,
            None => now,
        };
        self.slower_since = Some((nearer.region, since));
        if now.saturating_duration_since(since) >= SLOWER_TIMEOUT {
            return self.choose(nearer.region, ChoiceReason::Slower);
        }
        Some(current)
    }

    fn choose(&mut self, region: u32, reason: ChoiceReason) -> Option<u32> {
        let decision = RegionDecision {
            from: self.current,
            to: region,
            reason,
        };
        *self = Self {
            current: Some(region),
            decision: Some(decision),
            ..Self::default()
        };
        self.current
    }

    /// Takes the choice that was made since the last call, if any. A region that is used while the
    /// home region is waited for is none.
    pub(crate) fn take_decision(&mut self) -> Option<RegionDecision> {
        self.decision.take()
    }
}

/// First choice: the home region if it is healthy, else the nearest one, else any.
fn first_region(regions: &[RegionSample], home: Option<u32>) -> Option<u32> {
    let is_home = |sample: &&RegionSample| Some(sample.region) == home;
    let healthy_home = regions
        .iter()
        .find(|it| is_home(it) && it.is_healthy)
        .copied();
    healthy_home
        .or_else(|| nearest(regions.iter()))
        .or_else(|| regions.iter().find(is_home).copied())
        .or_else(|| regions.first().copied())
        .map(|sample| sample.region)
}

/// Nearest healthy region.
fn nearest<'a>(regions: impl Iterator<Item = &'a RegionSample>) -> Option<RegionSample> {
    regions
        .filter(|sample| sample.is_healthy)
        .min_by_key(|sample| sample.round_trip.unwrap_or(Duration::MAX))
        .copied()
}

/// Returns whether `current` is 30 % slower than `other`.
fn is_slower(current: &RegionSample, other: &RegionSample) -> bool {
    match (current.round_trip, other.round_trip) {
        (Some(current), Some(other)) => {
            current > (other * 13 / 10).max(other + MIN_ROUND_TRIP_DIFFERENCE)
        }
        (Some(_) | None, None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EU: u32 = 1;
    const US: u32 = 2;

    fn sample(region: u32, healthy: bool, ms: u64) -> RegionSample {
        RegionSample {
            region,
            is_healthy: healthy,
            round_trip: Some(Duration::from_millis(ms)),
        }
    }

    /// Updates the choice ten times a second for `seconds`; returns the time and the region of the
    /// first change.
    fn until_change(
        choice: &mut RegionChoice,
        seconds: u64,
        regions: impl Fn(u64) -> Vec<RegionSample>,
    ) -> Option<(f64, u32)> {
        let start = Instant::now();
        let before = choice.update(start, &regions(0), None);
        (1..=seconds * 10).find_map(|tenth| {
            let now = start + Duration::from_millis(100 * tenth);
            let region = choice.update(now, &regions(tenth), None);
            (region != before).then(|| (tenth as f64 / 10.0, region.unwrap_or(0)))
        })
    }

    #[test]
    fn the_first_choice_is_home_or_else_the_nearest_healthy_region() {
        let now = Instant::now();
        let regions = [sample(EU, true, 90), sample(US, true, 5)];
        let first =
            |home, regions: &[RegionSample]| RegionChoice::default().update(now, regions, home);
        assert_eq!(first(Some(EU), &regions), Some(EU));
        assert_eq!(first(None, &regions), Some(US));
        assert_eq!(first(Some(9), &regions), Some(US));
        let unhealthy_home = [sample(EU, false, 1), sample(US, true, 500)];
        assert_eq!(first(Some(EU), &unhealthy_home), Some(US));
        let all_unhealthy = [sample(EU, false, 1), sample(US, false, 1)];
        assert_eq!(first(Some(US), &all_unhealthy), Some(US));
        assert_eq!(first(None, &[]), None);
    }

    #[test]
    fn home_is_waited_for_until_the_timeout() {
        let start = Instant::now();
        let only_other = [sample(EU, false, 1), sample(US, true, 80)];
        let both = [sample(EU, true, 1), sample(US, true, 80)];
        let after = |ms| start + Duration::from_millis(ms);
        for (home_delay, expected) in [(900, EU), (1100, US)] {
            let mut choice = RegionChoice::default();
            for ms in (0..home_delay).step_by(100) {
                assert_eq!(choice.update(after(ms), &only_other, Some(EU)), Some(US));
            }
            let chosen = choice.update(after(home_delay), &both, Some(EU));
            assert_eq!(
                chosen,
                Some(expected),
                "home is healthy after {home_delay} ms"
            );
        }
    }

    #[test]
    fn an_unhealthy_region_is_replaced_after_a_second() {
        let mut choice = RegionChoice::default();
        choice.update(
            Instant::now(),
            &[sample(EU, true, 1), sample(US, true, 80)],
            None,
        );
        let change = until_change(&mut choice, 5, |_| {
            vec![sample(EU, false, 1), sample(US, true, 80)]
        });
        assert_eq!(change, Some((1.0, US)));
        // It doesn't return as soon as possible, but when the other has been slower for a minute.
        let change = until_change(&mut choice, 100, |_| {
            vec![sample(EU, true, 1), sample(US, true, 80)]
        });
        assert_eq!(change, Some((60.0, EU)));
    }

    #[test]
    fn short_failures_change_nothing() {
        let mut choice = RegionChoice::default();
        let flapping = |tenth| vec![sample(EU, tenth % 9 == 0, 1), sample(US, true, 80)];
        assert_eq!(until_change(&mut choice, 60, flapping), None);
        let occasionally_slow = |tenth| {
            let ms = if tenth % 300 == 0 { 10 } else { 100 };
            vec![sample(EU, true, ms), sample(US, true, 50)]
        };
        assert_eq!(until_change(&mut choice, 200, occasionally_slow), None);
    }

    #[test]
    fn small_differences_and_noise_change_nothing() {
        for (current, other) in [(120, 100), (130, 100), (2, 1)] {
            let mut choice = RegionChoice::default();
            choice.update(Instant::now(), &[sample(EU, true, current)], None);
            let regions = |_| vec![sample(EU, true, current), sample(US, true, other)];
            assert_eq!(until_change(&mut choice, 200, regions), None);
        }
    }

    #[test]
    fn without_another_healthy_region_nothing_changes() {
        let mut choice = RegionChoice::default();
        let regions = |_| vec![sample(EU, false, 1), sample(US, false, 1)];
        assert_eq!(until_change(&mut choice, 10, regions), None);
    }

    #[test]
    fn a_removed_region_is_replaced_at_once() {
        let mut choice = RegionChoice::default();
        let now = Instant::now();
        assert_eq!(choice.update(now, &[sample(EU, true, 1)], None), Some(EU));
        assert_eq!(
            decision_of(&mut choice),
            Some((None, EU, ChoiceReason::NoHome))
        );
        assert_eq!(choice.update(now, &[sample(US, true, 1)], None), Some(US));
        let removed = (Some(EU), US, ChoiceReason::Removed);
        assert_eq!(decision_of(&mut choice), Some(removed));
    }

    fn decision_of(choice: &mut RegionChoice) -> Option<(Option<u32>, u32, ChoiceReason)> {
        let decision = choice.take_decision();
        decision.map(|decision| (decision.from, decision.to, decision.reason))
    }

    #[test]
    fn a_region_that_is_used_until_home_is_known_was_not_chosen() {
        let mut choice = RegionChoice::default();
        let start = Instant::now();
        let other = sample(US, true, 80);
        let first = choice.update(start, &[other, sample(EU, false, 1)], Some(EU));
        assert_eq!((first, decision_of(&mut choice)), (Some(US), None));
        let later = start + Duration::from_millis(2);
        let home = choice.update(later, &[other, sample(EU, true, 1)], Some(EU));
        assert_eq!(home, Some(EU));
        let first = (None, EU, ChoiceReason::Home);
        assert_eq!(decision_of(&mut choice), Some(first));
        assert_eq!(decision_of(&mut choice), None, "it is taken once");
    }

    #[test]
    fn each_change_has_its_reason() {
        let mut choice = RegionChoice::default();
        let unhealthy = |_: u64| vec![sample(EU, false, 1), sample(US, true, 80)];
        let healthy = |_: u64| vec![sample(EU, true, 1), sample(US, true, 80)];
        choice.update(Instant::now(), &healthy(0), Some(EU));
        choice.take_decision();
        until_change(&mut choice, 5, unhealthy);
        let failed_over = (Some(EU), US, ChoiceReason::Unhealthy);
        assert_eq!(decision_of(&mut choice), Some(failed_over));
        until_change(&mut choice, 100, healthy);
        let returned = (Some(US), EU, ChoiceReason::Slower);
        assert_eq!(decision_of(&mut choice), Some(returned));
        let text = ChoiceReason::Unhealthy.to_string();
        assert!(text.ends_with("for 1s"), "{text}");
    }
}
