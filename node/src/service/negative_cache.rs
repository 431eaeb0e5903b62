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
const ENTRY_TTL: Duration = Duration::from_secs(1);
/// Maximum number of entries. For names beyond it the leader is asked each time.
const MAX_ENTRIES: usize = 4096;

/// Names of buckets and accounts that don't exist.
#[derive(Debug, Default)]
pub(super) struct NegativeCache(Mutex<CacheEntries>);

#[derive(Debug, Default)]
struct CacheEntries {
    queried_at: HashMap<Box<[u8]>, Instant>,
    /// Time at which expired entries were last removed, which takes a scan of all of them.
    pruned_at: Option<Instant>,
}

impl NegativeCache {
    /// Returns whether the leader was asked for a name within [`ENTRY_TTL`], and had none.
    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.contains_at(name, Instant::now())
    }

    /// Records that a name didn't exist when the query for it began.
    pub(super) fn insert(&self, name: &[u8], queried_at: Instant) {
        let names = &mut *self.0.lock();
        let is_prune_due = names
            .pruned_at
            .is_none_or(|at| queried_at >= at + ENTRY_TTL);
        if names.queried_at.len() >= MAX_ENTRIES && is_prune_due {
            names
                .queried_at
                .retain(|_, since| *since + ENTRY_TTL > queried_at);
            names.pruned_at = Some(queried_at);
        }
        if names.queried_at.len() < MAX_ENTRIES {
            names.queried_at.insert(name.into(), queried_at);
        }
    }

    fn contains_at(&self, name: &[u8], now: Instant) -> bool {
        let since = self.0.lock().queried_at.get(name).copied();
        since.is_some_and(|since| now < since + ENTRY_TTL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_valid_for_a_second() {
        let (absent, start) = (NegativeCache::default(), Instant::now());
        absent.insert(b"a", start);
        assert!(absent.contains_at(b"a", start + ENTRY_TTL / 2));
        assert!(!absent.contains_at(b"b", start));
        assert!(!absent.contains_at(b"a", start + ENTRY_TTL));
    }

    #[test]
    fn entries_are_bounded() {
        let (absent, start) = (NegativeCache::default(), Instant::now());
        let name = |number: usize| number.to_be_bytes();
        for number in 0..MAX_ENTRIES + 9 {
            absent.insert(&name(number), start);
        }
        assert!(absent.contains_at(&name(0), start));
        assert!(!absent.contains_at(&name(MAX_ENTRIES), start));
        let later = start + ENTRY_TTL;
        absent.insert(&name(MAX_ENTRIES), later);
        assert!(absent.contains_at(&name(MAX_ENTRIES), later));
        assert_eq!(absent.0.lock().queried_at.len(), 1);
    }
}
