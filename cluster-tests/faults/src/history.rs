//! The history of a run: all calls of its clients.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::call_record::{CallRecord, Outcome};
use super::checker::Effect;

/// Time for which a set of keys is used. It bounds the calls of unknown outcome on one key.
pub(super) const GENERATION_PERIOD: Duration = Duration::from_secs(5);

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

/// Number of calls by outcome, of answered touches, and of answered operations of batches.
#[derive(Debug, Default)]
pub struct OutcomeCounts {
    read: AtomicU64,
    written: AtomicU64,
    /// Also touches of a key that doesn't exist.
    condition_failed: AtomicU64,
    unknown: AtomicU64,
    not_done: AtomicU64,
    touches: AtomicU64,
    in_batches: AtomicU64,
}

impl OutcomeCounts {
    /// Returns the sum of several counts.
    pub(super) fn sum<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let sum = Self::default();
        for part in parts {
            let counters = [
                (&sum.read, &part.read),
                (&sum.written, &part.written),
                (&sum.condition_failed, &part.condition_failed),
                (&sum.unknown, &part.unknown),
                (&sum.not_done, &part.not_done),
                (&sum.touches, &part.touches),
                (&sum.in_batches, &part.in_batches),
            ];
            for (all, one) in counters {
                all.fetch_add(one.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        sum
    }

    /// Counts a call.
    pub(super) fn count(&self, record: &CallRecord) {
        let counter = match record.outcome {
            Outcome::Read(_) => &self.read,
            Outcome::Written => &self.written,
            Outcome::ConditionFailed | Outcome::NotFound => &self.condition_failed,
            Outcome::Unknown => &self.unknown,
            Outcome::NotDone => &self.not_done,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if matches!(record.outcome, Outcome::Unknown | Outcome::NotDone) {
            return;
        }
        if matches!(record.action.effect(), Effect::Touch(_)) {
            self.touches.fetch_add(1, Ordering::Relaxed);
        }
        if record.batch.is_some() {
            self.in_batches.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counters(&self) -> [(&'static str, u64); 5] {
        [
            ("read", &self.read),
            ("written", &self.written),
            ("condition failed", &self.condition_failed),
            ("unknown", &self.unknown),
            ("not done", &self.not_done),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    /// Returns the number of calls.
    pub fn total(&self) -> u64 {
        self.counters().iter().map(|(_, count)| count).sum()
    }

    /// Returns the number of calls that succeeded or whose condition was not met.
    pub fn answered(&self) -> u64 {
        self.counters()[..3].iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for OutcomeCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self
            .counters()
            .map(|(name, count)| format!("{count} {name}"));
        let (touches, in_batches) = (&self.touches, &self.in_batches);
        write!(
            f,
            "{} ({} answered touches, {} answered in batches)",
            parts.join(", "),
            touches.load(Ordering::Relaxed),
            in_batches.load(Ordering::Relaxed)
        )
    }
}

/// All calls of a run that aren't checked yet.
#[derive(Debug)]
pub struct History {
    started: Instant,
    generations: Mutex<BTreeMap<u64, HashMap<u64, Vec<CallRecord>>>>,
    /// Responses that no client should get.
    anomalies: Mutex<Vec<String>>,
    /// Number of calls by outcome.
    pub counts: OutcomeCounts,
}

impl History {
    /// Creates an empty history of a run that begins now.
    pub fn new() -> Self {
        Self::starting_at(Instant::now())
    }

    /// Creates an empty history of a run that has begun, so that the times of several histories
    /// compare.
    pub(super) fn starting_at(started: Instant) -> Self {
        Self {
            started,
            generations: Mutex::default(),
            anomalies: Mutex::default(),
            counts: OutcomeCounts::default(),
        }
    }

    /// Returns nanoseconds since the run's start, by the monotonic clock.
    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the generation of keys to use now.
    pub fn generation(&self) -> u64 {
        self.started.elapsed().as_secs() / GENERATION_PERIOD.as_secs()
    }

    /// Records and counts a call.
    pub fn record(&self, key: KeyName, record: CallRecord) {
        self.counts.count(&record);
        self.record_uncounted(key, record);
    }

    /// Records a call of the checks themselves, which isn't counted.
    pub(super) fn record_uncounted(&self, key: KeyName, record: CallRecord) {
        let mut generations = self.generations.lock().expect("no client panics here");
        let keys = generations.entry(key.generation).or_default();
        keys.entry(key.number).or_default().push(record);
    }

    /// Returns all keys with calls that aren't checked yet.
    pub(super) fn unchecked_keys(&self) -> Vec<KeyName> {
        let generations = self.generations.lock().expect("no client panics here");
        let keys = generations.iter().flat_map(|(generation, keys)| {
            keys.keys().map(|number| KeyName {
                generation: *generation,
                number: *number,
            })
        });
        keys.collect()
    }

    /// Records a response that no client should get.
    pub fn record_anomaly(&self, anomaly: String) {
        self.anomalies
            .lock()
            .expect("no client panics here")
            .push(anomaly);
    }

    /// Returns the responses that no client should have got.
    pub fn anomalies(&self) -> Vec<String> {
        self.anomalies
            .lock()
            .expect("no client panics here")
            .clone()
    }

    /// Takes the oldest generation if it ended at least this long ago.
    pub(super) fn take_ended_generation(
        &self,
        ago: Duration,
    ) -> Option<(u64, HashMap<u64, Vec<CallRecord>>)> {
        let mut generations = self.generations.lock().expect("no client panics here");
        let (oldest, _) = generations.first_key_value()?;
        let end = GENERATION_PERIOD * u32::try_from(oldest + 1).unwrap_or(u32::MAX);
        (self.started.elapsed() >= end + ago).then(|| generations.pop_first())?
    }

    /// Takes the oldest generation, once no client calls any more.
    pub(super) fn take_oldest_generation(&self) -> Option<(u64, HashMap<u64, Vec<CallRecord>>)> {
        let mut generations = self.generations.lock().expect("no client panics here");
        generations.pop_first()
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}
