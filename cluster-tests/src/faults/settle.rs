//! Checking keys that are no longer used, while the run goes on, and all of them at its end.

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

/// Readings at once.
const PARALLEL: usize = 16;

/// Numbers of the clients that read for the checks.
const FIRST_READER: u32 = 10_000;

/// How long a key may be unreadable when all is well again.
const READABLE_WITHIN: Duration = Duration::from_secs(60);

/// Judges what else is known of a key, given its history.
pub(super) type AlsoJudge = dyn Fn(KeyName, &[Record]) -> Result<(), String> + Send + Sync;

/// What else is judged when a key is, and how long it may take until all of it is there.
#[derive(Clone)]
pub(super) struct Also {
    pub judge: Arc<AlsoJudge>,
    pub after: Duration,
}

/// A key whose history was found right.
struct Settled {
    key: KeyName,
    /// What it may hold from then on: what was read last, and what may still be written.
    possible: Vec<Value>,
}

/// Checks keys, and remembers what they may hold.
pub(super) struct Settler {
    shared: Arc<Shared>,
    /// Where the histories of failing keys go.
    dir: PathBuf,
    also: Option<Also>,
    settled: Vec<Settled>,
    /// Calls that are part of a history found right.
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

    /// What it has in common with the clients.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Checks what was used and isn't any more, until the run is stopped or a key fails.
    pub async fn run(mut self) -> Self {
        let after = self.also.as_ref().map_or(PATIENCE * 3, |also| also.after);
        while !self.shared.stopped() && self.failures.is_empty() {
            match self.shared.ledger.take_ended(after) {
                Some((generation, keys)) => self.settle(generation, keys).await,
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        self
    }

    /// Checks all the rest, and reads again all keys that were ever used.
    pub async fn finish(&mut self) {
        while let Some((generation, keys)) = self.shared.ledger.take_any() {
            self.settle(generation, keys).await;
        }
        let settled = std::mem::take(&mut self.settled);
        let again = settled.iter().enumerate().map(async |(index, settled)| {
            let read = read(&self.shared, settled.key, index).await;
            match read.map(|record| record.outcome) {
                Some(Outcome::Found(value)) if settled.possible.contains(&value) => None,
                found => Some(format!(
                    "{} holds {found:?} at the end, not one of {:?}",
                    settled.key, settled.possible
                )),
            }
        });
        let wrong: Vec<Option<String>> = stream::iter(again)
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        self.failures.extend(wrong.into_iter().flatten());
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
        let also = self.also.clone();
        let judged = tokio::task::spawn_blocking(move || {
            let judged = histories.into_iter().map(|(key, records)| {
                let also = || {
                    also.as_ref()
                        .map_or(Ok(()), |also| (also.judge)(key, &records))
                };
                let verdict = judge(&records).and_then(|()| also());
                (key, records, verdict)
            });
            judged.collect::<Vec<_>>()
        });
        for (key, records, verdict) in judged.await.expect("check histories") {
            match verdict {
                Ok(()) => self.remember(key, &records),
                Err(why) => self.fail(key, records, &why),
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
            let why = format!("{key} could not be read for {READABLE_WITHIN:?}");
            // Where the run was stopped meanwhile, the reading was cut short by that.
            self.failures.push(why);
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

    fn fail(&mut self, key: KeyName, mut records: Vec<Record>, why: &str) {
        records.sort_by_key(|record| record.start);
        let mut text = format!("{key}: {why}\n");
        for record in &records {
            // Writing to a text can't fail.
            let _ = writeln!(text, "{record}");
        }
        let path = self
            .dir
            .join(format!("history-{}-{}.txt", key.generation, key.number));
        let written = fs::write(&path, text);
        self.failures
            .push(format!("{key}: {why}; {} {written:?}", path.display()));
    }
}

/// Reads a key as long as it takes.
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

/// Whether a key's history is right, and if not, why.
fn judge(records: &[Record]) -> Result<(), String> {
    one_version_for_each_value(records.iter())?;
    let (ops, indexes) = to_ops(records);
    match check(&ops, Budget::default()) {
        Verdict::Linearizable => Ok(()),
        Verdict::Undecided => Err("undecided: too many calls of unknown fate at once".into()),
        Verdict::Violated { placed, stuck } => {
            let show = |ops: &[usize]| {
                let lines = ops.iter().map(|op| format!("  {}", records[indexes[*op]]));
                lines.collect::<Vec<_>>().join("\n")
            };
            let end = placed.len().saturating_sub(20);
            Err(format!(
                "not linearizable. After these (the last of {})\n{}\nnone of these fits:\n{}\nAll calls:",
                placed.len(),
                show(&placed[end..]),
                show(&stuck)
            ))
        }
    }
}

/// A value that was written once has one version, and a version is of one value.
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
        let other = *values.entry(etag).or_insert(value);
        if other != value {
            return Err(format!("{etag} is the version of {other} and of {value}"));
        }
    }
    Ok(())
}
