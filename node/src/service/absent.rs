//! A negative cache: names that the metadata's leader was asked for a moment ago, and that don't
//! exist.
//!
//! A client that goes on using a deleted bucket, or an API key of no account, costs the leader one
//! query a second, not one with each request. Names are random, so nobody asks for one before it is
//! drawn, and a node looks up here only what it doesn't know itself: no client is told that
//! something doesn't exist that was created before the client asked for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time for which an entry is valid.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Maximum number of entries. For names beyond it the leader is asked each time.
const NAMES: usize = 4096;

/// Names of buckets and accounts that don't exist.
#[derive(Debug, Default)]
pub(super) struct Absent(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    asked: HashMap<Box<[u8]>, Instant>,
    /// Time at which expired entries were last removed, which takes a scan of all of them.
    cleared: Option<Instant>,
}

impl Absent {
    /// Returns whether the leader was asked for a name within [`ENTRY_TTL`], and had none.
    pub fn knows(&self, name: &[u8]) -> bool {
        self.knows_at(name, Instant::now())
    }

    /// Records that a name didn't exist when the query for it began.
    pub fn note(&self, name: &[u8], queried_at: Instant) {
        let names = &mut *self.0.lock();
        let is_prune_due = names.cleared.is_none_or(|at| queried_at >= at + REMEMBERED);
        if names.asked.len() >= NAMES && is_prune_due {
            names.asked.retain(|_, since| *since + REMEMBERED > queried_at);
            names.cleared = Some(queried_at);
        }
        if names.asked.len() < NAMES {
            names.asked.insert(name.into(), queried_at);
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
    fn entries_are_valid_for_a_second() {
        let (absent, start) = (Absent::default(), Instant::now());
        absent.note(b"a", start);
        assert!(absent.knows_at(b"a", start + REMEMBERED / 2));
        assert!(!absent.knows_at(b"b", start));
        assert!(!absent.knows_at(b"a", start + REMEMBERED));
    }

    #[test]
    fn entries_are_bounded() {
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
