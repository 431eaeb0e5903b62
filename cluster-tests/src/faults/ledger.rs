//! Where clients write down their calls.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::call::{Outcome, Record};

/// How long keys are used. Calls of unknown fate don't gather on one key for ever.
pub(super) const GENERATION: Duration = Duration::from_secs(5);

/// A key of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName {
    /// Which keys were used together.
    pub generation: u64,
    /// Which of them.
    pub number: u64,
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}/k{}", self.generation, self.number)
    }
}

/// How many calls had each outcome.
#[derive(Debug, Default)]
pub struct Tally {
    read: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    nothing: AtomicU64,
}

impl Tally {
    /// The numbers of several, added up.
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

    /// How many calls there were.
    pub fn total(&self) -> u64 {
        self.all().iter().map(|(_, count)| count).sum()
    }

    /// How many were answered with a success, or a condition that failed.
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
    /// Answers that no client should get.
    odd: Mutex<Vec<String>>,
    /// What became of the calls.
    pub tally: Tally,
}

impl Ledger {
    /// Nothing yet. Time begins.
    pub fn new() -> Self {
        Self::since(Instant::now())
    }

    /// Nothing yet, in a run that has begun: so that the times in several ledgers compare.
    pub(super) fn since(started: Instant) -> Self {
        Self {
            started,
            generations: Mutex::default(),
            odd: Mutex::default(),
            tally: Tally::default(),
        }
    }

    /// Nanoseconds since the run's start, by the monotonic clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The generation of keys to use now.
    pub fn generation(&self) -> u64 {
        self.started.elapsed().as_secs() / GENERATION.as_secs()
    }

    /// Writes down a call.
    pub fn record(&self, key: KeyName, record: Record) {
        self.tally.count(record.outcome);
        self.append(key, record);
    }

    /// Writes down a call of the checks' own, which isn't counted.
    pub(super) fn append(&self, key: KeyName, record: Record) {
        let mut generations = self.generations.lock().expect("no client panics here");
        let keys = generations.entry(key.generation).or_default();
        keys.entry(key.number).or_default().push(record);
    }

    /// Writes down an answer that no client should get.
    pub fn odd(&self, what: String) {
        self.odd.lock().expect("no client panics here").push(what);
    }

    /// The answers that no client should have got.
    pub fn odd_answers(&self) -> Vec<String> {
        self.odd.lock().expect("no client panics here").clone()
    }

    /// Takes out the oldest generation that ended this long ago.
    pub(super) fn take_ended(&self, ago: Duration) -> Option<(u64, HashMap<u64, Vec<Record>>)> {
        let mut generations = self.generations.lock().expect("no client panics here");
        let (oldest, _) = generations.first_key_value()?;
        let ended = GENERATION * u32::try_from(oldest + 1).unwrap_or(u32::MAX);
        (self.started.elapsed() >= ended + ago).then(|| generations.pop_first())?
    }

    /// Takes out the oldest generation, when no client calls any more.
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
