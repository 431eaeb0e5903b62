//! Executes the lines of an import, a batch at a time, as its mode says.
//!
//! Invariants:
//! - a key that must stay stays: `skip` and `newer` write, and delete, under a condition, which is
//!   judged together with the write;
//! - a line is tried again only if it provably was not done;
//! - once a write of a key has an unknown outcome, no later line of that key is executed, since the
//!   write may still be done after it.

use std::collections::HashSet;
use std::future::Future;
use std::iter::repeat_with;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use xxhash_rust::xxh3::xxh3_64;

use super::batch::{LineFailure, LineWrite, WriteLine};
use super::mode::ImportMode;
use crate::api::errors::ApiError;
use crate::service::{
    BatchOperation, BatchOutcome, KeyError, KeyWrite, Precondition, Put, Unavailable, Version,
};

/// Maximum number of times that a line's key may change between its read and its write.
const MAX_CONFLICTS: u32 = 8;
/// Maximum number of writes of unknown outcome, after which an import ends.
const MAX_UNCERTAIN_KEYS: usize = 10_000;

/// Keys of the bucket to which an import writes.
pub(super) trait ImportStore: Send + Sync {
    /// Executes operations on different keys, and returns their outcomes in their order.
    fn execute(
        &self,
        operations: Vec<BatchOperation>,
    ) -> impl Future<Output = Vec<BatchOutcome>> + Send;
}

/// When lines that were not done are tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    /// Time for all attempts at a batch.
    pub time: Duration,
    /// Minimum and maximum of the backoff between two attempts.
    pub backoff: (Duration, Duration),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(10),
            backoff: (Duration::from_millis(20), Duration::from_secs(1)),
        }
    }
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct BatchReport {
    /// Number of lines that were written.
    pub imported: u64,
    /// Number of lines whose keys stay as they are.
    pub skipped: u64,
    /// Lines that failed.
    pub failures: Vec<LineFailure>,
    /// Set if the import can't go on.
    pub fatal: Option<ApiError>,
}

impl BatchReport {
    fn fail(&mut self, line: &WriteLine, error: ApiError) {
        let failure = LineFailure::new(line.number, Some(line.key.clone()), error);
        self.failures.push(failure);
    }
}

/// A line that has no outcome yet.
struct PendingLine {
    line: WriteLine,
    /// Number of times that its key has changed between its read and its write.
    conflicts: u32,
    /// Reason why it was not done yet.
    error: Option<ApiError>,
}

/// Executor of one import.
pub(super) struct Executor<S> {
    store: S,
    mode: ImportMode,
    retry: RetryPolicy,
    /// Hashes of the keys with a write of unknown outcome.
    uncertain_keys: HashSet<u64>,
}

impl<S: ImportStore> Executor<S> {
    pub(super) fn new(store: S, mode: ImportMode, retry: RetryPolicy) -> Self {
        Self {
            store,
            mode,
            retry,
            uncertain_keys: HashSet::new(),
        }
    }

    /// Executes lines of different keys.
    pub(super) async fn execute(&mut self, lines: Vec<WriteLine>) -> BatchReport {
        let mut report = BatchReport::default();
        let mut pending = self.refuse_uncertain(lines, &mut report);
        let deadline = Instant::now() + self.retry.time;
        let (mut backoff, max_backoff) = self.retry.backoff;
        while !pending.is_empty() {
            pending = self.attempt(pending, &mut report).await;
            let is_late = Instant::now() >= deadline;
            if pending.is_empty() || report.fatal.is_some() || is_late {
                break;
            }
            sleep(backoff).await;
            backoff = (2 * backoff).min(max_backoff);
        }
        for PendingLine { line, error, .. } in pending {
            report.fail(&line, error.unwrap_or_else(ApiError::unavailable));
        }
        if self.uncertain_keys.len() > MAX_UNCERTAIN_KEYS {
            report.fatal.get_or_insert_with(ApiError::unknown_outcome);
        }
        report
    }

    /// Refuses lines of keys with a write of unknown outcome.
    fn refuse_uncertain(
        &self,
        lines: Vec<WriteLine>,
        report: &mut BatchReport,
    ) -> Vec<PendingLine> {
        let mut pending = Vec::with_capacity(lines.len());
        for line in lines {
            if self.uncertain_keys.contains(&xxh3_64(&line.key)) {
                report.fail(&line, ApiError::after_unknown_outcome());
                continue;
            }
            pending.push(PendingLine {
                line,
                conflicts: 0,
                error: None,
            });
        }
        pending
    }

    /// Executes lines once, and returns those that were not done and may be tried again.
    async fn attempt(
        &mut self,
        lines: Vec<PendingLine>,
        report: &mut BatchReport,
    ) -> Vec<PendingLine> {
        let mut again = Vec::new();
        let writes = match self.mode {
            ImportMode::Overwrite => with_condition(lines, &Precondition::None),
            ImportMode::Skip => with_condition(lines, &Precondition::Absent),
            ImportMode::Newer | ImportMode::Merge => {
                self.select_newer(lines, report, &mut again).await
            }
        };
        if writes.is_empty() {
            return again;
        }
        let operations = writes.iter();
        let operations =
            operations.map(|(pending, precondition)| write(&pending.line, precondition));
        let outcomes = self.store.execute(operations.collect()).await;
        for ((pending, _), outcome) in writes.into_iter().zip(with_unknown(outcomes)) {
            again.extend(self.judge(pending, outcome, report));
        }
        again
    }

    /// Reads the versions of the lines' keys, and returns the lines that are newer, each with the
    /// condition that its key hasn't changed since.
    async fn select_newer(
        &self,
        lines: Vec<PendingLine>,
        report: &mut BatchReport,
        again: &mut Vec<PendingLine>,
    ) -> Vec<(PendingLine, Precondition)> {
        let reads = lines.iter().map(|pending| BatchOperation::Get {
            key: pending.line.key.clone(),
            // A key that exists is told with its version, and without its value.
            precondition: Precondition::Absent,
        });
        let outcomes = self.store.execute(reads.collect()).await;
        let mut newer = Vec::new();
        for (mut pending, outcome) in lines.into_iter().zip(with_unknown(outcomes)) {
            match outcome {
                BatchOutcome::NotModified(version) if Some(version) >= pending.line.version => {
                    report.skipped += 1;
                }
                BatchOutcome::NotModified(version) => {
                    newer.push((pending, Precondition::Versions(vec![version])));
                }
                BatchOutcome::Missing | BatchOutcome::Deleted(_) if pending.line.is_delete() => {
                    report.skipped += 1;
                }
                BatchOutcome::Deleted(version) if self.is_deleted_later(version, &pending.line) => {
                    report.skipped += 1;
                }
                BatchOutcome::Missing | BatchOutcome::Deleted(_) => {
                    newer.push((pending, Precondition::Absent));
                }
                BatchOutcome::Failed(error) if is_retryable(&error) => {
                    pending.error = Some(error.into());
                    again.push(pending);
                }
                other => report.fail(&pending.line, error_of(other)),
            }
        }
        newer
    }

    /// Returns whether a key that was deleted stays so.
    fn is_deleted_later(&self, deleted: Version, line: &WriteLine) -> bool {
        self.mode == ImportMode::Merge && Some(deleted) >= line.version
    }

    /// Records the outcome of a write. Returns the line if it is to be tried again.
    fn judge(
        &mut self,
        mut pending: PendingLine,
        outcome: BatchOutcome,
        report: &mut BatchReport,
    ) -> Option<PendingLine> {
        let error = match outcome {
            BatchOutcome::Written(_) => {
                report.imported += 1;
                return None;
            }
            BatchOutcome::Failed(error) => error,
            other => {
                report.fail(&pending.line, error_of(other));
                return None;
            }
        };
        let is_again = match &error {
            KeyError::PreconditionFailed if self.mode == ImportMode::Skip => {
                report.skipped += 1;
                return None;
            }
            KeyError::PreconditionFailed => {
                pending.conflicts += 1;
                pending.conflicts <= MAX_CONFLICTS
            }
            KeyError::UnknownOutcome => {
                self.uncertain_keys.insert(xxh3_64(&pending.line.key));
                false
            }
            KeyError::BucketDeleted => {
                report.fatal = Some(ApiError::unknown_bucket());
                false
            }
            error => is_retryable(error),
        };
        if is_again {
            pending.error = Some(error.into());
            return Some(pending);
        }
        report.fail(&pending.line, error.into());
        None
    }
}

fn with_condition(
    lines: Vec<PendingLine>,
    precondition: &Precondition,
) -> Vec<(PendingLine, Precondition)> {
    let lines = lines.into_iter();
    lines.map(|line| (line, precondition.clone())).collect()
}

fn write(line: &WriteLine, precondition: &Precondition) -> BatchOperation {
    let precondition = precondition.clone();
    let write = match &line.write {
        LineWrite::Put(put) => KeyWrite::Put(Put {
            precondition,
            ..put.clone()
        }),
        LineWrite::Delete => KeyWrite::Delete(precondition),
    };
    BatchOperation::Write {
        key: line.key.clone(),
        write,
    }
}

/// Continues outcomes without end: what has none is unknown.
fn with_unknown(outcomes: Vec<BatchOutcome>) -> impl Iterator<Item = BatchOutcome> {
    let unknown = repeat_with(|| BatchOutcome::Failed(KeyError::UnknownOutcome));
    outcomes.into_iter().chain(unknown)
}

/// Returns whether nothing was done, and trying again may help soon.
fn is_retryable(error: &KeyError) -> bool {
    match error {
        KeyError::Unavailable(reason) => !matches!(reason, Unavailable::Upgrading),
        KeyError::DiskFull(shortage) => shortage.elsewhere,
        KeyError::UnknownOutcome
        | KeyError::PreconditionFailed
        | KeyError::NoSuchKey
        | KeyError::TooManyKeys { .. }
        | KeyError::TooManyBytes { .. }
        | KeyError::BucketDeleted
        | KeyError::Damaged(_)
        | KeyError::Storage(_) => false,
    }
}

/// Returns the error of an outcome that is no success.
fn error_of(outcome: BatchOutcome) -> ApiError {
    match outcome {
        BatchOutcome::Failed(error) => error.into(),
        BatchOutcome::AfterUnknownOutcome => ApiError::after_unknown_outcome(),
        // No write and no read of a version has them.
        BatchOutcome::Written(_)
        | BatchOutcome::Value(_)
        | BatchOutcome::NotModified(_)
        | BatchOutcome::ConditionFailed(_)
        | BatchOutcome::Deleted(_)
        | BatchOutcome::Missing
        | BatchOutcome::TooLarge => ApiError::unknown_outcome(),
    }
}

#[cfg(test)]
#[path = "execute_tests.rs"]
mod tests;
