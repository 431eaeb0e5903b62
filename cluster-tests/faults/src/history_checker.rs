//! Checks keys that are no longer used, while the run continues, and all of them at its end.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::call_record::{Action, CallRecord, Outcome, to_register_ops};
use super::history::KeyName;
use super::recording_client::{ClientContext, RESPONSE_TIMEOUT, RecordingClient};
use super::version_uniqueness::check_versions_unique;
use crate::checker::{ABSENT, Content, Effect, SearchBudget, Verdict, check};

/// Maximum number of concurrent reads.
const MAX_CONCURRENT_READS: usize = 16;

/// First number of the clients that read for the checks.
const FIRST_READER: u32 = 10_000;

/// Time for a key to be readable once the region is healthy again.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks a key beyond its own history.
pub(super) type ExtraCheckFn = dyn Fn(KeyName, &[CallRecord]) -> Result<(), String> + Send + Sync;

/// An additional check of each key, and the delay after which its data is complete.
#[derive(Clone)]
pub(super) struct ExtraCheck {
    pub check: Arc<ExtraCheckFn>,
    pub delay: Duration,
}

/// A key whose history passed.
struct CheckedKey {
    key: KeyName,
    /// Contents that the key may have from then on: the last one read, and those still to be
    /// written.
    possible_contents: Vec<Content>,
}

/// Checks histories, and remembers what keys may hold.
pub(super) struct HistoryChecker {
    shared: Arc<ClientContext>,
    /// Folder for the histories of failing keys.
    dir: PathBuf,
    extra_check: Option<ExtraCheck>,
    checked_keys: Vec<CheckedKey>,
    /// Number of calls in histories that passed.
    pub checked_calls: u64,
    pub failures: Vec<String>,
}

impl HistoryChecker {
    pub(super) fn new(
        shared: &Arc<ClientContext>,
        dir: PathBuf,
        extra_check: Option<ExtraCheck>,
    ) -> Self {
        Self {
            shared: shared.clone(),
            dir,
            extra_check,
            checked_keys: vec![],
            checked_calls: 0,
            failures: vec![],
        }
    }

    /// Returns the state shared with the clients.
    pub(super) fn shared(&self) -> &Arc<ClientContext> {
        &self.shared
    }

    /// Checks generations of keys that are no longer used, until the run is stopped or a key fails.
    pub(super) async fn run(mut self) -> Self {
        let after = self
            .extra_check
            .as_ref()
            .map_or(RESPONSE_TIMEOUT * 3, |extra| extra.delay);
        while !self.shared.is_stopped() && self.failures.is_empty() {
            match self.shared.history.take_ended_generation(after) {
                Some((generation, keys)) => self.check_generation(generation, keys).await,
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        self
    }

    /// Checks all other generations, and reads all keys again that were ever used.
    pub(super) async fn finish(&mut self) {
        while let Some((generation, keys)) = self.shared.history.take_oldest_generation() {
            self.check_generation(generation, keys).await;
        }
        let checked_keys = std::mem::take(&mut self.checked_keys);
        let rereads = checked_keys
            .iter()
            .enumerate()
            .map(async |(index, checked)| {
                let read = read_key(&self.shared, checked.key, index).await;
                match read.map(|record| record.outcome) {
                    Some(Outcome::Read(content))
                        if checked.possible_contents.contains(&content) =>
                    {
                        None
                    }
                    read_result => Some(format!(
                        "{} holds {read_result:?} at the end, not one of {:?}",
                        checked.key, checked.possible_contents
                    )),
                }
            });
        let failures: Vec<Option<String>> = stream::iter(rereads)
            .buffer_unordered(MAX_CONCURRENT_READS)
            .collect()
            .await;
        self.failures.extend(failures.into_iter().flatten());
    }

    async fn check_generation(&mut self, generation: u64, keys: HashMap<u64, Vec<CallRecord>>) {
        let shared = self.shared.clone();
        let with_last = keys.into_iter().enumerate();
        let with_last = with_last.map(async |(index, (number, mut records))| {
            let key = KeyName { generation, number };
            records.extend(read_key(&shared, key, index).await);
            (key, records)
        });
        let histories: Vec<_> = stream::iter(with_last)
            .buffer_unordered(MAX_CONCURRENT_READS)
            .collect()
            .await;
        let extra = self.extra_check.clone();
        let results = tokio::task::spawn_blocking(move || {
            let results = histories.into_iter().map(|(key, records)| {
                let extra = || {
                    extra
                        .as_ref()
                        .map_or(Ok(()), |extra| (extra.check)(key, &records))
                };
                let verdict = check_history(&records).and_then(|()| extra());
                (key, records, verdict)
            });
            results.collect::<Vec<_>>()
        });
        for (key, records, verdict) in results.await.expect("check histories") {
            match verdict {
                Ok(()) => self.record_passed(key, &records),
                Err(reason) => self.record_failure(key, records, &reason),
            }
        }
    }

    fn record_passed(&mut self, key: KeyName, records: &[CallRecord]) {
        self.checked_calls += records
            .iter()
            .filter(|record| record.to_register_op().is_some())
            .count() as u64;
        let last = records.last().map(|record| record.outcome);
        let Some(Outcome::Read(content)) = last else {
            let reason = format!("{key} could not be read for {READ_TIMEOUT:?}");
            // If the run was stopped meanwhile, that cut the reading short.
            self.failures.push(reason);
            return;
        };
        self.checked_keys.push(CheckedKey {
            key,
            possible_contents: possible_contents(content, records),
        });
    }

    fn record_failure(&mut self, key: KeyName, mut records: Vec<CallRecord>, reason: &str) {
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
pub(super) async fn read_key(
    shared: &Arc<ClientContext>,
    key: KeyName,
    index: usize,
) -> Option<CallRecord> {
    let started = tokio::time::Instant::now();
    let mut attempt = index;
    while started.elapsed() < READ_TIMEOUT {
        let seat = attempt % shared.nodes.len();
        let mut reader = RecordingClient::new(shared, FIRST_READER + index as u32, seat);
        let record = reader.send(key, Action::Get, None).await;
        if matches!(record.outcome, Outcome::Read(_)) {
            return Some(record);
        }
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

/// Returns the contents that a key may have after `last` was read: that, and those of writes of
/// unknown outcome.
fn possible_contents(last: Content, records: &[CallRecord]) -> Vec<Content> {
    let mut possible = vec![last];
    let mut touches = vec![];
    let unknown = records
        .iter()
        .filter(|record| record.outcome == Outcome::Unknown);
    for record in unknown {
        match record.action.effect() {
            Effect::Nothing => {}
            Effect::Put(content) => possible.push(content),
            Effect::Delete => possible.push(ABSENT),
            Effect::Touch(metadata) => touches.push(metadata),
        }
    }
    let present = possible.iter().filter(|content| **content != ABSENT);
    let touched: Vec<Content> = present
        .flat_map(|content| touches.iter().map(|metadata| content.touched(*metadata)))
        .collect();
    possible.extend(touched);
    possible
}

/// Checks a key's history; returns the reason if it is not linearizable.
fn check_history(records: &[CallRecord]) -> Result<(), String> {
    check_versions_unique(records.iter())?;
    let (ops, indexes) = to_register_ops(records);
    match check(&ops, SearchBudget::default()) {
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

#[cfg(test)]
#[path = "history_checker_tests.rs"]
mod tests;
