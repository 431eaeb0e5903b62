//! Checks keys that are no longer used, while the run continues, and all of them at its end.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::call::{Action, Outcome, Record, to_ops};
use super::client::{Client, PATIENCE, Shared};
use super::ledger::KeyName;
use crate::checker::{ABSENT, Budget, Value, Verdict, check};

/// Maximum number of concurrent reads.
const PARALLEL: usize = 16;

/// First number of the clients that read for the checks.
const FIRST_READER: u32 = 10_000;

/// Time for a key to be readable once the region is healthy again.
const READABLE_WITHIN: Duration = Duration::from_secs(60);

/// Checks a key beyond its own history.
pub(super) type AlsoJudge = dyn Fn(KeyName, &[Record]) -> Result<(), String> + Send + Sync;

/// An additional check of each key, and the delay after which its data is complete.
#[derive(Clone)]
pub(super) struct Also {
    pub judge: Arc<AlsoJudge>,
    pub after: Duration,
}

/// A key whose history passed.
struct Settled {
    key: KeyName,
    /// Values that the key may hold from then on: the last one read, and those still to be written.
    possible: Vec<Value>,
}

/// Checks histories, and remembers what keys may hold.
pub(super) struct Settler {
    shared: Arc<Shared>,
    /// Folder for the histories of failing keys.
    dir: PathBuf,
    also: Option<Also>,
    settled: Vec<Settled>,
    /// Number of calls in histories that passed.
    pub checked: u64,
    pub failures: Vec<String>,
}

impl Settler {
    pub fn new(shared: &Arc<Shared>, dir: PathBuf, also: Option<Also>) -> Self {
        Self {
            shared: shared.clone(),
            dir,
            also,
            settled: vec![],
            checked: 0,
            failures: vec![],
        }
    }

    /// Returns the state shared with the clients.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Checks generations of keys that are no longer used, until the run is stopped or a key fails.
    pub async fn run(mut self) -> Self {
        let after = self.also.as_ref().map_or(PATIENCE * 3, |extra| extra.after);
        while !self.shared.stopped() && self.failures.is_empty() {
            match self.shared.ledger.take_ended(after) {
                Some((generation, keys)) => self.settle(generation, keys).await,
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        self
    }

    /// Checks all other generations, and reads all keys again that were ever used.
    pub async fn finish(&mut self) {
        while let Some((generation, keys)) = self.shared.ledger.take_any() {
            self.settle(generation, keys).await;
        }
        let checked_keys = std::mem::take(&mut self.settled);
        let rereads = checked_keys.iter().enumerate().map(async |(index, checked)| {
            let read = read(&self.shared, checked.key, index).await;
            match read.map(|record| record.outcome) {
                Some(Outcome::Found(value)) if checked.possible.contains(&value) => None,
                read_result => Some(format!(
                    "{} holds {read_result:?} at the end, not one of {:?}",
                    checked.key, checked.possible
                )),
            }
        });
        let failures: Vec<Option<String>> = stream::iter(rereads)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        self.failures.extend(failures.into_iter().flatten());
    }

    async fn settle(&mut self, generation: u64, keys: HashMap<u64, Vec<Record>>) {
        let shared = self.shared.clone();
        let with_last = keys.into_iter().enumerate();
        let with_last = with_last.map(async |(index, (number, mut records))| {
            let key = KeyName { generation, number };
            records.extend(read(&shared, key, index).await);
            (key, records)
        });
        let histories: Vec<_> = stream::iter(with_last)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let extra = self.also.clone();
        let results = tokio::task::spawn_blocking(move || {
            let results = histories.into_iter().map(|(key, records)| {
                let extra = || {
                    extra.as_ref()
                        .map_or(Ok(()), |extra| (extra.judge)(key, &records))
                };
                let verdict = judge(&records).and_then(|()| extra());
                (key, records, verdict)
            });
            results.collect::<Vec<_>>()
        });
        for (key, records, verdict) in results.await.expect("check histories") {
            match verdict {
                Ok(()) => self.remember(key, &records),
                Err(reason) => self.fail(key, records, &reason),
            }
        }
    }

    fn remember(&mut self, key: KeyName, records: &[Record]) {
        self.checked += records
            .iter()
            .filter(|record| record.op().is_some())
            .count() as u64;
        let last = records.last().map(|record| record.outcome);
        let Some(Outcome::Found(value)) = last else {
            let reason = format!("{key} could not be read for {READABLE_WITHIN:?}");
            // If the run was stopped meanwhile, that cut the reading short.
            self.failures.push(reason);
            return;
        };
        let unknown = records
            .iter()
            .filter(|record| record.outcome == Outcome::Unknown);
        let mut possible: Vec<Value> = unknown
            .filter_map(|record| record.action.writes())
            .collect();
        possible.push(value);
        self.settled.push(Settled { key, possible });
    }

    fn fail(&mut self, key: KeyName, mut records: Vec<Record>, reason: &str) {
        records.sort_by_key(|record| record.start);
        let mut text = format!("{key}: {reason}\n");
        for record in &records {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{record}");
        }
        let path = self
            .dir
            .join(format!("history-{}-{}.txt", key.generation, key.number));
        let result = fs::write(&path, text);
        self.failures
            .push(format!("{key}: {reason}; {} {result:?}", path.display()));
    }
}

/// Reads a key, trying nodes in turn until one answers or the time is over.
async fn read(shared: &Arc<Shared>, key: KeyName, index: usize) -> Option<Record> {
    let started = tokio::time::Instant::now();
    let mut attempt = index;
    while started.elapsed() < READABLE_WITHIN {
        let seat = attempt % shared.nodes.len();
        let mut reader = Client::new(shared, FIRST_READER + index as u32, seat, 0);
        let record = reader.ask(key, Action::Get, None).await;
        if matches!(record.outcome, Outcome::Found(_)) {
            return Some(record);
        }
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// Checks a key's history; returns the reason if it is not linearizable.
fn judge(records: &[Record]) -> Result<(), String> {
    one_version_for_each_value(records.iter())?;
    let (ops, indexes) = to_ops(records);
    match check(&ops, Budget::default()) {
        Verdict::Linearizable => Ok(()),
        Verdict::Undecided => Err("undecided: too many concurrent calls of unknown outcome".into()),
        Verdict::Violated { placed, stuck } => {
            let show = |ops: &[usize]| {
                let lines = ops.iter().map(|op| format!("  {}", records[indexes[*op]]));
                lines.collect::<Vec<_>>().join("\n")
            };
            let end = placed.len().saturating_sub(20);
            Err(format!(
                "not linearizable. After these (the last of {})\n{}\nnone of these fits:\n{}\n\
                 All calls:",
                placed.len(),
                show(&placed[end..]),
                show(&stuck)
            ))
        }
    }
}

/// Checks that each value has one version, and each version one value.
pub(super) fn one_version_for_each_value<'a>(
    records: impl Iterator<Item = &'a Record>,
) -> Result<(), String> {
    let (mut versions, mut values) = (HashMap::new(), HashMap::new());
    let seen = records.filter_map(|record| Some((record.value()?, record.etag.as_deref()?)));
    let seen = seen.filter(|(value, _)| *value != ABSENT);
    for (value, etag) in seen {
        let version = *versions.entry(value).or_insert(etag);
        if version != etag {
            return Err(format!(
                "{value} was written twice, as {version} and {etag}"
            ));
        }
        let first_value = *values.entry(etag).or_insert(value);
        if first_value != value {
            return Err(format!("{etag} is the version of {first_value} and of {value}"));
        }
    }
    Ok(())
}
