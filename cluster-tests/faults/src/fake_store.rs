//! Key/value stores in memory, correct and defective ones.

use std::collections::BTreeMap;

use serde_json::Value;

/// Defect of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// None: the store is correct.
    Healthy,
    /// One read in 50 returns the value before the last one.
    StaleReads,
    /// One write in 20 is acknowledged and lost.
    LostWrites,
    /// One conditional write in 10 is done although its condition isn't met.
    IgnoredConditions,
    /// One write in 50 has an unknown outcome, and is done twice, after the response.
    RepeatedWrites,
    /// One write in 50 is refused in the response, and done.
    FalseRefusals,
    /// One write in 4 of those in batches is acknowledged and lost.
    LostBatchLines,
    /// Batches are executed from the last operation to the first.
    ReorderedBatches,
    /// One touch in 4 takes the value before the last one.
    TornTouches,
    /// One list in 2 leaves out its first key.
    IncompleteLists,
}

/// A key's value.
#[derive(Clone, Debug)]
pub(super) struct FakeEntry {
    pub value: String,
    /// Metadata; null if there is none.
    pub metadata: Value,
    pub version: u64,
}

/// Write of a request.
#[derive(Clone, Debug)]
pub(super) enum FakeWrite {
    Put { value: String, metadata: Value },
    Delete,
    Touch { metadata: Value },
}

/// Request for a key.
#[derive(Clone, Debug)]
pub(super) struct FakeRequest {
    pub key: String,
    /// `None`: the request reads.
    pub write: Option<FakeWrite>,
    /// ETag that the key must have.
    pub if_match: Option<String>,
    /// True if the key must not exist.
    pub is_creation: bool,
    pub is_in_batch: bool,
}

/// Answer to a request.
#[derive(Clone, Debug)]
pub(super) struct FakeAnswer {
    pub status: u16,
    /// Version that was written.
    pub version: Option<u64>,
    /// Entry that the operation has read.
    pub entry: Option<FakeEntry>,
    /// True if the write is to be done later, twice.
    pub is_repeated: bool,
}

impl FakeAnswer {
    fn new(status: u16) -> Self {
        Self {
            status,
            version: None,
            entry: None,
            is_repeated: false,
        }
    }
}

/// A store. Each of its operations is atomic.
pub(super) struct FakeStore {
    pub defect: Defect,
    /// Values of each key by age; the last one is the present one.
    keys: BTreeMap<String, Vec<Option<FakeEntry>>>,
    /// Number of operations and of versions.
    clock: u64,
}

impl FakeStore {
    pub(super) fn new(defect: Defect) -> Self {
        Self {
            defect,
            keys: BTreeMap::new(),
            clock: 0,
        }
    }

    fn is_due(&self, every: u64, defect: Defect) -> bool {
        self.defect == defect && self.clock.is_multiple_of(every)
    }

    /// Executes a request.
    pub(super) fn execute(&mut self, request: &FakeRequest) -> FakeAnswer {
        self.clock += 1;
        let Some(write) = &request.write else {
            return self.read(&request.key);
        };
        let current = self.current(&request.key);
        if current.is_none() && matches!(write, FakeWrite::Touch { .. }) {
            return FakeAnswer::new(404);
        }
        let is_condition_met = is_condition_met(request, current.as_ref());
        if !is_condition_met && !self.is_due(10, Defect::IgnoredConditions) {
            return FakeAnswer::new(412);
        }
        if self.is_due(50, Defect::RepeatedWrites) {
            return FakeAnswer {
                is_repeated: true,
                ..FakeAnswer::new(504)
            };
        }
        let is_refused = self.is_due(50, Defect::FalseRefusals);
        let is_lost = self.is_due(20, Defect::LostWrites)
            || request.is_in_batch && self.is_due(4, Defect::LostBatchLines);
        if !is_lost {
            self.write(&request.key, write);
        }
        if is_refused {
            return FakeAnswer::new(503);
        }
        FakeAnswer {
            version: Some(self.clock),
            ..FakeAnswer::new(200)
        }
    }

    /// Does a write, whatever its condition.
    pub(super) fn write(&mut self, key: &str, write: &FakeWrite) {
        let is_torn = self.is_due(4, Defect::TornTouches);
        self.clock += 1;
        let versions = self.keys.entry(key.to_owned()).or_default();
        let current = versions.last().cloned().flatten();
        let new = match write {
            FakeWrite::Put { value, metadata } => Some((value.clone(), metadata.clone())),
            FakeWrite::Delete => None,
            FakeWrite::Touch { metadata } => {
                let Some(current) = current else {
                    return;
                };
                let mut older = versions.iter().rev().flatten();
                let older = older.find(|older| is_torn && older.value != current.value);
                let touched = older.map_or(current.value, |older| older.value.clone());
                Some((touched, metadata.clone()))
            }
        };
        versions.push(new.map(|(value, metadata)| FakeEntry {
            value,
            metadata,
            version: self.clock,
        }));
    }

    fn current(&self, key: &str) -> Option<FakeEntry> {
        self.keys.get(key)?.last()?.clone()
    }

    fn read(&self, key: &str) -> FakeAnswer {
        let versions = self.keys.get(key).map_or(&[][..], Vec::as_slice);
        let is_stale = self.is_due(50, Defect::StaleReads);
        let before = versions.len().checked_sub(2).filter(|_| is_stale);
        let entry = match before {
            Some(before) => versions[before].clone(),
            None => versions.last().cloned().flatten(),
        };
        let status = if entry.is_some() { 200 } else { 404 };
        FakeAnswer {
            entry,
            ..FakeAnswer::new(status)
        }
    }

    /// Lists the keys with a prefix.
    pub(super) fn list(&mut self, prefix: &str) -> Vec<(String, FakeEntry)> {
        self.clock += 1;
        let is_incomplete = self.is_due(2, Defect::IncompleteLists);
        let live = self
            .keys
            .iter()
            .filter_map(|(key, versions)| Some((key.clone(), versions.last()?.clone()?)));
        live.filter(|(key, _)| key.starts_with(prefix))
            .skip(usize::from(is_incomplete))
            .collect()
    }
}

fn is_condition_met(request: &FakeRequest, current: Option<&FakeEntry>) -> bool {
    let etag = current.map(|entry| format!("\"{}\"", entry.version));
    let is_match = request.if_match.is_none() || request.if_match == etag;
    is_match && !(request.is_creation && current.is_some())
}
