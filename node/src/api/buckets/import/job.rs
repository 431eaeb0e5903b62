//! Task of an import: while one batch is executed, the next one is read and parsed.
//!
//! It goes on whether its response is read or not, and ends after the batch in progress when the
//! client is gone. Memory: two batches, each of at most 1 MiB and one value, and one line; usually
//! less than 3 MiB, and at worst, with a line of the maximum length, about 20 MiB.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, BatchReader, BodyEnd, LineRules};
use super::execute::{BatchReport, Executor, ImportStore, RetryPolicy};
use super::mode::ImportMode;
use super::progress::{Progress, Totals};
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
    pub permit: OwnedSemaphorePermit,
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
            publish: |totals: &Totals, imported| {
                totals.publish(&progress);
                metrics.count_imported_keys(imported);
            },
        };
        let rules = || rules_of(&directory, &id, mode);
        let last_line = run.run(rules, &stop).await;
        drop(permit);
        if let Some(line) = last_line {
            // Fails only if the client is gone.
            let _ = end.send(line);
        }
    }
}

/// Returns the rules of the bucket as it is now: `None` if it was deleted.
fn rules_of(directory: &Directory, id: &BucketId, mode: ImportMode) -> Option<LineRules> {
    let bucket = directory.bucket(id)?;
    Some(LineRules::of(&bucket, mode, directory.now()))
}

/// Parts of an import that its outcome depends on.
struct ImportRun<S, P> {
    executor: Executor<S>,
    reader: BatchReader,
    totals: Totals,
    /// Told the totals after each batch, and the number of keys that it has written.
    publish: P,
}

impl<S: ImportStore, P: Fn(&Totals, u64)> ImportRun<S, P> {
    /// Reads and executes all batches. Returns the last line; `None` if `stop` was cancelled.
    async fn run(
        &mut self,
        rules: impl Fn() -> Option<LineRules>,
        stop: &CancellationToken,
    ) -> Option<Bytes> {
        let mut batch = Batch::default();
        while !stop.is_cancelled() {
            let end = batch.end.take();
            let Some(rules) = rules() else {
                return Some(self.totals.end_line(Some(ApiError::unknown_bucket())));
            };
            let (executor, reader) = (&mut self.executor, &mut self.reader);
            let execution = executor.execute(std::mem::take(&mut batch.puts));
            let is_last = end.is_some();
            let reading = async {
                if is_last {
                    return None;
                }
                stop.run_until_cancelled(reader.next(&rules)).await
            };
            let (report, next) = join(execution, reading).await;
            let fatal = self.add(batch, report);
            match (fatal, end) {
                (Some(error), _) | (None, Some(BodyEnd::Failed(error))) => {
                    return Some(self.totals.end_line(Some(error)));
                }
                (None, Some(BodyEnd::Complete)) => return Some(self.totals.end_line(None)),
                (None, None) => batch = next?,
            }
        }
        None
    }

    /// Adds a batch that is done to the totals. Returns the error after which the import can't go
    /// on.
    fn add(&mut self, batch: Batch, report: BatchReport) -> Option<ApiError> {
        let mut failures = batch.failures;
        failures.extend(report.failures);
        let totals = &mut self.totals;
        totals.lines = totals.lines.max(batch.last_line);
        totals.imported += report.imported;
        totals.skipped += report.skipped + batch.expired;
        totals.add_failures(failures);
        (self.publish)(totals, report.imported);
        report.fatal
    }
}

/// Keys of a bucket, which an import writes.
struct BucketKeys {
    keyspace: Keyspace,
    directory: Directory,
    /// The bucket as it was when the import began.
    bucket: Arc<Bucket>,
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
