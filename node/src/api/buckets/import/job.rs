//! Task of an import: while one batch is executed, the next one is read and parsed.
//!
//! It goes on whether its response is read or not, and ends after the batch in progress when the
//! client is gone. Memory: two batches, each of at most 1 MiB and one value, and one line; usually
//! less than 3 MiB, and at worst, with a line of the maximum length, about 20 MiB.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, BatchReader, BodyEnd, LineFailure, LineRules};
use super::execute::{BatchReport, Executor, ImportStore, RetryPolicy};
use super::mode::ImportMode;
use super::progress::{Progress, Totals};
use crate::api::buckets::transfer_permits::TransferPermit;
use crate::api::errors::ApiError;
use crate::api::metrics::ApiMetrics;
use crate::service::{
    BatchOperation, BatchOutcome, Bucket, BucketId, Directory, Keyspace, SessionToken, StoredValue,
    ValueAdmission, ValueBudget,
};

/// An import that runs.
pub(super) struct ImportJob {
    pub keyspace: Keyspace,
    pub directory: Directory,
    pub bucket: Arc<Bucket>,
    pub mode: ImportMode,
    pub reader: BatchReader,
    pub metrics: Arc<ApiMetrics>,
    pub progress: Arc<Progress>,
    /// Gets the last line.
    pub end: oneshot::Sender<Bytes>,
    /// Cancelled when the client is gone.
    pub stop: CancellationToken,
    /// Held as long as the import runs.
    pub permit: TransferPermit,
}

impl ImportJob {
    /// Runs the import to its end.
    pub(super) async fn run(self) {
        let Self {
            keyspace,
            directory,
            bucket,
            mode,
            reader,
            metrics,
            progress,
            end,
            stop,
            permit,
        } = self;
        let id = bucket.id;
        let store = BucketKeys {
            keyspace,
            directory: directory.clone(),
            bucket,
        };
        let mut run = ImportRun {
            executor: Executor::new(store, mode, RetryPolicy::default()),
            reader,
            totals: Totals::default(),
            publish: |totals: &Totals, imported, _: &[LineFailure]| {
                totals.publish(&progress);
                metrics.count_imported_keys(imported);
            },
        };
        let rules = || rules_of(&directory, &id, mode);
        let last_line = match run.run(rules, &stop).await {
            ImportEnd::Complete => Some(run.totals.end_line(None)),
            ImportEnd::Failed(error) => Some(run.totals.end_line(Some(error))),
            ImportEnd::Stopped => None,
        };
        drop(permit);
        if let Some(line) = last_line {
            // Fails only if the client is gone.
            let _ = end.send(line);
        }
    }
}

/// Returns the rules of the bucket as it is now: `None` if it was deleted.
pub(super) fn rules_of(
    directory: &Directory,
    id: &BucketId,
    mode: ImportMode,
) -> Option<LineRules> {
    let bucket = directory.bucket(id)?;
    Some(LineRules::of(&bucket, mode, directory.now()))
}

/// End of an import.
#[derive(Debug)]
pub(super) enum ImportEnd {
    /// All lines were read.
    Complete,
    /// It can't go on.
    Failed(ApiError),
    /// It was stopped.
    Stopped,
}

/// Parts of an import that its outcome depends on.
pub(super) struct ImportRun<S, P> {
    pub executor: Executor<S>,
    pub reader: BatchReader,
    pub totals: Totals,
    /// Told the totals after each batch, the number of keys that it has written, and its lines that
    /// failed.
    pub publish: P,
}

impl<S: ImportStore, P: FnMut(&Totals, u64, &[LineFailure])> ImportRun<S, P> {
    /// Reads and executes all batches, until `stop` is cancelled.
    pub(super) async fn run(
        &mut self,
        rules: impl Fn() -> Option<LineRules>,
        stop: &CancellationToken,
    ) -> ImportEnd {
        let mut batch = Batch::default();
        while !stop.is_cancelled() {
            let end = batch.end.take();
            let Some(rules) = rules() else {
                return ImportEnd::Failed(ApiError::unknown_bucket());
            };
            let Self {
                executor,
                reader,
                totals,
                publish,
            } = self;
            let cut = stop.child_token();
            // What is done is published at once: a client may wait for that before it sends more.
            let execution = async {
                let report = executor.execute(std::mem::take(&mut batch.writes)).await;
                let fatal = add(totals, publish, batch, report);
                if fatal.is_some() {
                    cut.cancel();
                }
                fatal
            };
            let is_last = end.is_some();
            let reading = async {
                if is_last {
                    return None;
                }
                cut.run_until_cancelled(reader.next(&rules)).await
            };
            let (fatal, next) = join(execution, reading).await;
            match (fatal, end, next) {
                (Some(error), ..) | (None, Some(BodyEnd::Failed(error)), _) => {
                    return ImportEnd::Failed(error);
                }
                (None, Some(BodyEnd::Complete), _) => return ImportEnd::Complete,
                (None, None, Some(next)) => batch = next,
                (None, None, None) => break,
            }
        }
        ImportEnd::Stopped
    }
}

/// Adds a batch that is done to the totals, and publishes them. Returns the error after which the
/// import can't go on.
fn add(
    totals: &mut Totals,
    publish: &mut impl FnMut(&Totals, u64, &[LineFailure]),
    batch: Batch,
    report: BatchReport,
) -> Option<ApiError> {
    let mut failures = batch.failures;
    failures.extend(report.failures);
    totals.lines = totals.lines.max(batch.last_line);
    totals.imported += report.imported;
    totals.skipped += report.skipped + batch.skipped;
    totals.add_failures(&mut failures);
    publish(totals, report.imported, &failures);
    report.fatal
}

/// Keys of a bucket, which an import writes.
pub(super) struct BucketKeys {
    pub keyspace: Keyspace,
    pub directory: Directory,
    /// The bucket as it was when the import began.
    pub bucket: Arc<Bucket>,
}

impl ImportStore for BucketKeys {
    async fn execute(&self, operations: Vec<BatchOperation>) -> Vec<BatchOutcome> {
        // Its plan may have changed since; if it was deleted, the shards or the next batch tell.
        let bucket = self.directory.bucket(&self.bucket.id);
        let bucket = bucket.unwrap_or_else(|| self.bucket.clone());
        let session = SessionToken::default();
        let keyspace = &self.keyspace;
        keyspace
            .execute_batch(&bucket, operations, &session, &NoValues)
            .await
    }
}

/// An import reads no values.
struct NoValues;

impl ValueBudget for NoValues {
    fn admit(&self, _key: &[u8], _value: &StoredValue) -> ValueAdmission {
        ValueAdmission::TooLarge
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
