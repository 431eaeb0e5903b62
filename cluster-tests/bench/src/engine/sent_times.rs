//! Times at which requests were sent, for whoever measures what follows from them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time at which the request for each key was sent last.
#[derive(Debug)]
pub(crate) struct SentTimes {
    origin: Instant,
    /// Nanoseconds since the origin, and one more; 0: not sent.
    nanos: Vec<AtomicU64>,
}

impl SentTimes {
    /// Creates times for keys below `keys`.
    pub(crate) fn new(keys: u64) -> Self {
        Self {
            origin: Instant::now(),
            nanos: (0..keys).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Records that the request for a key is sent now, by a time that the caller has just read.
    pub(crate) fn record(&self, key: u64, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_nanos();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1);
        if let Some(nanos) = self.slot(key) {
            nanos.store(since + 1, Ordering::Release);
        }
    }

    /// Returns the time of a key's request; `None` if it wasn't sent.
    pub(crate) fn get(&self, key: u64) -> Option<Instant> {
        let nanos = self.slot(key)?.load(Ordering::Acquire);
        let since = Duration::from_nanos(nanos.checked_sub(1)?);
        Some(self.origin + since)
    }

    /// Returns the number of keys whose request was sent.
    pub(crate) fn count(&self) -> u64 {
        let sent = self.nanos.iter();
        let sent = sent.filter(|nanos| nanos.load(Ordering::Relaxed) > 0);
        sent.count() as u64
    }

    fn slot(&self, key: u64) -> Option<&AtomicU64> {
        self.nanos.get(usize::try_from(key).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_last_request() {
        let times = SentTimes::new(3);
        assert_eq!((times.get(0), times.count()), (None, 0));
        let (first, second) = (times.origin, times.origin + Duration::from_micros(7));
        times.record(0, first);
        assert_eq!((times.get(0), times.count()), (Some(first), 1));
        times.record(0, second);
        times.record(2, first);
        assert_eq!((times.get(0), times.count()), (Some(second), 2));
        times.record(3, first);
        assert_eq!(times.get(3), None, "beyond the end");
    }
}
