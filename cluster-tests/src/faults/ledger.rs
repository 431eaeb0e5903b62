//! The history of a run: all calls of its clients.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::call::{Outcome, Record};

/// Time for which a set of keys is used. It bounds the calls of unknown outcome on one key.
pub(super) const GENERATION: Duration = Duration::from_secs(5);

/// A key of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName {
    /// Set of keys that were used at the same time.
    pub generation: u64,
    /// Number within the set.
    pub number: u64,
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}/k{}", self.generation, self.number)
    }
}

/// Number of calls by outcome.
#[derive(Debug, Default)]
pub struct Tally {
    read: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    nothing: AtomicU64,
}

impl Tally {
    /// Returns the sum of several counts.
    pub(super) fn sum<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let sum = Self::default();
        for part in parts {
            let counters = [
                (&sum.read, &part.read),
                (&sum.written, &part.written),
                (&sum.failed, &part.failed),
                (&sum.unknown, &part.unknown),
                (&sum.nothing, &part.nothing),
            ];
            for (all, one) in counters {
                all.fetch_add(one.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        sum
    }

    /// Counts a call.
    pub(super) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Found(_) => &self.read,
            Outcome::Done => &self.written,
            Outcome::Failed => &self.failed,
            Outcome::Unknown => &self.unknown,
            Outcome::Nothing => &self.nothing,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> [(&'static str, u64); 5] {
        [
            ("read", &self.read),
            ("written", &self.written),
            ("condition failed", &self.failed),
            ("unknown", &self.unknown),
            ("not done", &self.nothing),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    /// Returns the number of calls.
    pub fn total(&self) -> u64 {
        self.all().iter().map(|(_, count)| count).sum()
    }

    /// Returns the number of calls that succeeded or whose condition was not met.
    pub fn answered(&self) -> u64 {
        self.all()[..3].iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.all().map(|(name, count)| format!("{count} {name}"));
        f.write_str(&parts.join(", "))
    }
}

/// All calls of a run that aren't checked yet.
#[derive(Debug)]
pub struct Ledger {
    started: Instant,
    generations: Mutex<BTreeMap<u64, HashMap<u64, Vec<Record>>>>,
    /// Responses that no client should get.
    odd: Mutex<Vec<String>>,
    /// Number of calls by outcome.
    pub tally: Tally,
}

impl Ledger {
    /// Creates an empty history of a run that begins now.
    pub fn new() -> Self {
        Self::since(Instant::now())
    }

    /// Creates an empty history of a run that has begun, so that the times of several histories
    /// compare.
    pub(super) fn since(started: Instant) -> Self {
        Self {
            started,
            generations: Mutex::default(),
            odd: Mutex::default(),
            tally: Tally::default(),
        }
    }

    /// Returns nanoseconds since the run's start, by the monotonic clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the generation of keys to use now.
    pub fn generation(&self) -> u64 {
        self.started.elapsed().as_secs() / GENERATION.as_secs()
    }

    /// Records and counts a call.
    pub fn record(&self, key: KeyName, record: Record) {
        self.tally.count(record.outcome);
        self.append(key, record);
    }

    /// Records a call of the checks themselves, which isn't counted.
    pub(super) fn append(&self, key: KeyName, record: Record) {
        let mut generations = self.generations.lock().expect("no client panics here");
        let keys = generations.entry(key.generation).or_default();
        keys.entry(key.number).or_default().push(record);
    }

    /// Records a response that no client should get.
    pub fn odd(&self, anomaly: String) {
        self.odd.lock().expect("no client panics here").push(anomaly);
    }

    /// Returns the responses that no client should have got.
    pub fn odd_answers(&self) -> Vec<String> {
        self.odd.lock().expect("no client panics here").clone()
    }

    /// Takes the oldest generation if it ended at least this long ago.
    pub(super) fn take_ended(&self, ago: Duration) -> Option<(u64, HashMap<u64, Vec<Record>>)> {
        let mut generations = self.generations.lock().expect("no client panics here");
        let (oldest, _) = generations.first_key_value()?;
        let end = GENERATION * u32::try_from(oldest + 1).unwrap_or(u32::MAX);
        (self.started.elapsed() >= end + ago).then(|| generations.pop_first())?
    }

    /// Takes the oldest generation, once no client calls any more.
    pub(super) fn take_any(&self) -> Option<(u64, HashMap<u64, Vec<Record>>)> {
        let mut generations = self.generations.lock().expect("no client panics here");
        generations.pop_first()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}
