//! What was asked for at the metadata's leader a moment ago, and isn't there.
//!
//! Whoever goes on using a deleted bucket, or a key of nobody, costs the leader a question a second,
//! not one with each request. Names are random, so nobody asks for one before it is drawn, and what a node
//! knows by itself it doesn't look up here: nobody is told that something isn't there that was created
//! before it was asked for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For how long it is remembered.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Names that are remembered; when there are more, the leader is asked for the others each time.
const NAMES: usize = 4096;

/// Names of what isn't there.
#[derive(Debug, Default)]
pub(super) struct Absent(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    asked: HashMap<Box<[u8]>, Instant>,
    /// When those were dropped that needn't be remembered any more: that takes a look at all of them.
    cleared: Option<Instant>,
}

impl Absent {
    /// Whether the leader has just been asked for a name.
    pub fn knows(&self, name: &[u8]) -> bool {
        self.knows_at(name, Instant::now())
    }

    /// Notes that a name wasn't there when the question for it began.
    pub fn note(&self, name: &[u8], asked: Instant) {
        let names = &mut *self.0.lock();
        let rested = names.cleared.is_none_or(|at| asked >= at + REMEMBERED);
        if names.asked.len() >= NAMES && rested {
            names.asked.retain(|_, since| *since + REMEMBERED > asked);
            names.cleared = Some(asked);
        }
        if names.asked.len() < NAMES {
            names.asked.insert(name.into(), asked);
        }
    }

    fn knows_at(&self, name: &[u8], now: Instant) -> bool {
        let since = self.0.lock().asked.get(name).copied();
        since.is_some_and(|since| now < since + REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_remembered_for_a_second() {
        let (absent, start) = (Absent::default(), Instant::now());
        absent.note(b"a", start);
        assert!(absent.knows_at(b"a", start + REMEMBERED / 2));
        assert!(!absent.knows_at(b"b", start));
        assert!(!absent.knows_at(b"a", start + REMEMBERED));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (absent, start) = (Absent::default(), Instant::now());
        let name = |number: usize| number.to_be_bytes();
        for number in 0..NAMES + 9 {
            absent.note(&name(number), start);
        }
        assert!(absent.knows_at(&name(0), start));
        assert!(!absent.knows_at(&name(NAMES), start));
        let later = start + REMEMBERED;
        absent.note(&name(NAMES), later);
        assert!(absent.knows_at(&name(NAMES), later));
        assert_eq!(absent.0.lock().asked.len(), 1);
    }
}
