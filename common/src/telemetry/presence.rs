//! Tracks the presence of things, and reports each loss and each return once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Change of a presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<K> {
    /// Loss of a thing.
    Lost(K),
    /// Return of a thing, after this time of absence.
    Back(K, Duration),
}

/// Tracker of the presence of all things that should be present.
#[derive(Debug)]
pub struct Presence<K> {
    /// Time that a thing may take to become present the first time.
    comes_within: Duration,
    /// Absence that isn't reported yet.
    tolerated: Duration,
    seen: BTreeMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Set once it was present.
    was_there: bool,
    /// Begin of its absence; `None`: it is present.
    absent_since: Option<Instant>,
    told: bool,
}

impl<K: Copy + Ord> Presence<K> {
    /// Creates a tracker that reports a thing that was never present after `initial_grace`, and one
    /// that was after `absence_grace`.
    pub fn new(initial_grace: Duration, absence_grace: Duration) -> Self {
        Self {
            comes_within: initial_grace,
            tolerated: absence_grace,
            seen: BTreeMap::new(),
        }
    }

    /// Takes all things that should be present, each with whether it is, and returns what to
    /// report. Things that aren't named any more are forgotten.
    pub fn look(&mut self, now: Instant, all: &BTreeMap<K, bool>) -> Vec<Change<K>> {
        self.seen.retain(|key, _| all.contains_key(key));
        let changes = all.iter().filter_map(|(key, is_present)| {
            let tracked = self.seen.entry(*key).or_insert(Seen {
                was_there: false,
                absent_since: Some(now),
                told: false,
            });
            if *is_present {
                let since = tracked.absent_since.take();
                tracked.was_there = true;
                let is_reported = std::mem::take(&mut tracked.told);
                return since
                    .filter(|_| is_reported)
                    .map(|since| Change::Back(*key, now.duration_since(since)));
            }
            let since = *tracked.absent_since.get_or_insert(now);
            let grace = if tracked.was_there {
                self.tolerated
            } else {
                self.comes_within
            };
            if now.duration_since(since) < grace || tracked.told {
                return None;
            }
            tracked.told = true;
            Some(Change::Lost(*key))
        });
        changes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Followed {
        presence: Presence<u8>,
        begin: Instant,
    }

    impl Followed {
        fn new() -> Self {
            let (long, short) = (Duration::from_secs(10), Duration::from_secs(2));
            Self {
                presence: Presence::new(long, short),
                begin: Instant::now(),
            }
        }

        fn look(&mut self, second: u64, all: &[(u8, bool)]) -> Vec<Change<u8>> {
            let now = self.begin + Duration::from_secs(second);
            let all: BTreeMap<u8, bool> = all.iter().copied().collect();
            self.presence.look(now, &all)
        }
    }

    #[test]
    fn each_loss_and_return_is_reported_once() {
        let mut fixture = Followed::new();
        assert_eq!(fixture.look(0, &[(1, true), (2, true)]), []);
        assert_eq!(fixture.look(1, &[(1, false), (2, true)]), []);
        assert_eq!(fixture.look(3, &[(1, false), (2, true)]), [Change::Lost(1)]);
        assert_eq!(fixture.look(4, &[(1, false), (2, true)]), []);
        let after = Duration::from_secs(8);
        assert_eq!(
            fixture.look(9, &[(1, true), (2, true)]),
            [Change::Back(1, after)]
        );
        assert_eq!(fixture.look(10, &[(1, true), (2, true)]), []);
    }

    #[test]
    fn a_short_absence_is_not_reported_and_a_first_absence_later() {
        let mut fixture = Followed::new();
        fixture.look(0, &[(1, true), (2, false)]);
        assert_eq!(fixture.look(1, &[(1, false), (2, false)]), []);
        assert_eq!(fixture.look(2, &[(1, true), (2, false)]), []);
        assert_eq!(
            fixture.look(10, &[(1, true), (2, false)]),
            [Change::Lost(2)]
        );
        // Forgotten, and new again.
        assert_eq!(fixture.look(11, &[(1, true)]), []);
        assert_eq!(fixture.look(12, &[(1, true), (2, false)]), []);
    }
}
