//! Tracks the presence of things, and reports each loss and each return once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Change of a presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceChange<K> {
    /// Loss of a thing.
    Lost(K),
    /// Return of a thing, after this time of absence.
    Recovered(K, Duration),
}

/// Tracker of the presence of all things that should be present.
#[derive(Debug)]
pub struct PresenceTracker<K> {
    /// Time that a thing may take to become present the first time.
    initial_grace: Duration,
    /// Absence that isn't reported yet.
    absence_grace: Duration,
    tracked: BTreeMap<K, Tracked>,
}

#[derive(Debug)]
struct Tracked {
    /// Set once it was present.
    was_present: bool,
    /// Begin of its absence; `None`: it is present.
    absent_since: Option<Instant>,
    is_reported: bool,
}

impl<K: Copy + Ord> PresenceTracker<K> {
    /// Creates a tracker that reports a thing that was never present after `initial_grace`, and one
    /// that was after `absence_grace`.
    pub fn new(initial_grace: Duration, absence_grace: Duration) -> Self {
        Self {
            initial_grace,
            absence_grace,
            tracked: BTreeMap::new(),
        }
    }

    /// Takes all things that should be present, each with whether it is, and returns what to
    /// report. Things that aren't named any more are forgotten.
    pub fn update(&mut self, now: Instant, all: &BTreeMap<K, bool>) -> Vec<PresenceChange<K>> {
        self.tracked.retain(|key, _| all.contains_key(key));
        let changes = all.iter().filter_map(|(key, is_present)| {
            let tracked = self.tracked.entry(*key).or_insert(Tracked {
                was_present: false,
                absent_since: Some(now),
                is_reported: false,
            });
            if *is_present {
                let since = tracked.absent_since.take();
                tracked.was_present = true;
                let is_reported = std::mem::take(&mut tracked.is_reported);
                return since
                    .filter(|_| is_reported)
                    .map(|since| PresenceChange::Recovered(*key, now.duration_since(since)));
            }
            let since = *tracked.absent_since.get_or_insert(now);
            let grace = if tracked.was_present {
                self.absence_grace
            } else {
                self.initial_grace
            };
            if now.duration_since(since) < grace || tracked.is_reported {
                return None;
            }
            tracked.is_reported = true;
            Some(PresenceChange::Lost(*key))
        });
        changes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        tracker: PresenceTracker<u8>,
        start: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let (long, short) = (Duration::from_secs(10), Duration::from_secs(2));
            Self {
                tracker: PresenceTracker::new(long, short),
                start: Instant::now(),
            }
        }

        fn update(&mut self, second: u64, all: &[(u8, bool)]) -> Vec<PresenceChange<u8>> {
            let now = self.start + Duration::from_secs(second);
            let all: BTreeMap<u8, bool> = all.iter().copied().collect();
            self.tracker.update(now, &all)
        }
    }

    #[test]
    fn each_loss_and_return_is_reported_once() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.update(0, &[(1, true), (2, true)]), []);
        assert_eq!(fixture.update(1, &[(1, false), (2, true)]), []);
        assert_eq!(
            fixture.update(3, &[(1, false), (2, true)]),
            [PresenceChange::Lost(1)]
        );
        assert_eq!(fixture.update(4, &[(1, false), (2, true)]), []);
        let after = Duration::from_secs(8);
        assert_eq!(
            fixture.update(9, &[(1, true), (2, true)]),
            [PresenceChange::Recovered(1, after)]
        );
        assert_eq!(fixture.update(10, &[(1, true), (2, true)]), []);
    }

    #[test]
    fn a_short_absence_is_not_reported_and_a_first_absence_later() {
        let mut fixture = Fixture::new();
        fixture.update(0, &[(1, true), (2, false)]);
        assert_eq!(fixture.update(1, &[(1, false), (2, false)]), []);
        assert_eq!(fixture.update(2, &[(1, true), (2, false)]), []);
        assert_eq!(
            fixture.update(10, &[(1, true), (2, false)]),
            [PresenceChange::Lost(2)]
        );
        // Forgotten, and new again.
        assert_eq!(fixture.update(11, &[(1, true)]), []);
        assert_eq!(fixture.update(12, &[(1, true), (2, false)]), []);
    }
}
