//! Follows whether things are there, and tells once when one is gone and once when it is back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A change of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<K> {
    /// It is gone.
    Lost(K),
    /// It is back, after this time.
    Back(K, Duration),
}

/// What is there of all that should be.
#[derive(Debug)]
pub struct Presence<K> {
    /// Time for what was never there to come.
    comes_within: Duration,
    /// Absences that are shorter aren't told.
    tolerated: Duration,
    seen: BTreeMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Whether it was ever there.
    was_there: bool,
    /// Since when it isn't; `None`: it is.
    absent_since: Option<Instant>,
    told: bool,
}

impl<K: Copy + Ord> Presence<K> {
    /// Nothing seen yet.
    pub fn new(comes_within: Duration, tolerated: Duration) -> Self {
        Self {
            comes_within,
            tolerated,
            seen: BTreeMap::new(),
        }
    }

    /// Takes all that should be there, each with whether it is, and tells what has changed. What
    /// isn't named any more is forgotten.
    pub fn look(&mut self, now: Instant, all: &BTreeMap<K, bool>) -> Vec<Change<K>> {
        self.seen.retain(|key, _| all.contains_key(key));
        let changes = all.iter().filter_map(|(key, is_there)| {
            let seen = self.seen.entry(*key).or_insert(Seen {
                was_there: false,
                absent_since: Some(now),
                told: false,
            });
            if *is_there {
                let since = seen.absent_since.take();
                seen.was_there = true;
                let told = std::mem::take(&mut seen.told);
                return since
                    .filter(|_| told)
                    .map(|since| Change::Back(*key, now.duration_since(since)));
            }
            let since = *seen.absent_since.get_or_insert(now);
            let patience = if seen.was_there {
                self.tolerated
            } else {
                self.comes_within
            };
            if now.duration_since(since) < patience || seen.told {
                return None;
            }
            seen.told = true;
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
    fn each_loss_and_return_is_told_once() {
        let mut followed = Followed::new();
        assert_eq!(followed.look(0, &[(1, true), (2, true)]), []);
        assert_eq!(followed.look(1, &[(1, false), (2, true)]), []);
        assert_eq!(
            followed.look(3, &[(1, false), (2, true)]),
            [Change::Lost(1)]
        );
        assert_eq!(followed.look(4, &[(1, false), (2, true)]), []);
        let after = Duration::from_secs(8);
        assert_eq!(
            followed.look(9, &[(1, true), (2, true)]),
            [Change::Back(1, after)]
        );
        assert_eq!(followed.look(10, &[(1, true), (2, true)]), []);
    }

    #[test]
    fn a_short_absence_is_not_told_and_what_never_came_is_later() {
        let mut followed = Followed::new();
        followed.look(0, &[(1, true), (2, false)]);
        assert_eq!(followed.look(1, &[(1, false), (2, false)]), []);
        assert_eq!(followed.look(2, &[(1, true), (2, false)]), []);
        assert_eq!(
            followed.look(10, &[(1, true), (2, false)]),
            [Change::Lost(2)]
        );
        // Forgotten, and new again.
        assert_eq!(followed.look(11, &[(1, true)]), []);
        assert_eq!(followed.look(12, &[(1, true), (2, false)]), []);
    }
}
