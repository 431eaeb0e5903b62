//! Imports the lines of a file into a bucket, without a client: what a node alone had before its
//! region joined the others anew.
//!
//! Invariant: an import that ended early can be run again as a whole, and changes nothing where it
//! was done. Each key that it writes gets a version that is newer than all lines, so a second
//! attempt at a write of unknown outcome finds that it was done, or does it.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::batch::{BatchReader, KnownLines, LineFailure};
use super::execute::{Executor, RetryPolicy};
use super::job::{BucketKeys, ImportEnd, ImportRun, rules_of};
use super::mode::ImportMode;
use super::progress::Totals;
use super::reader::BodyLines;
use crate::api::http::receive::StreamBounds;
use crate::service::{Bucket, BucketId, Service, Unavailable};

/// Size of the pieces in which a file is read, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Bounds of the file, which is no slow client: the disk may take its time.
const BOUNDS: StreamBounds = StreamBounds {
    chunk_timeout: Duration::from_secs(600),
    min_rate: 0,
};
/// Time for all attempts at a batch: while elections go on, and disks fill up, users retry, too.
const RETRY: RetryPolicy = RetryPolicy {
    time: Duration::from_secs(60),
    backoff: (Duration::from_millis(50), Duration::from_secs(2)),
};
/// Maximum number of failed lines whose numbers are kept.
const MAX_FAILED_LINES: usize = 1_000_000;

/// Import of a file. Lines are merged: a key stays if its version, or that of its deletion, isn't
/// older than the line's.
pub(crate) struct FileImport<'a> {
    /// The service that executes it.
    pub service: &'a Service,
    /// Bucket of the lines.
    pub bucket: BucketId,
    /// Path of the file.
    pub path: &'a Path,
    /// Lines that are skipped.
    pub known: KnownLines,
}

/// What became of a file's lines.
#[derive(Debug, Default)]
pub(crate) struct FileImportReport {
    /// Number of lines whose keys were written or deleted.
    pub imported: u64,
    /// Number of lines whose keys stay as they are.
    pub skipped: u64,
    /// Number of lines that failed.
    pub failed: u64,
    /// Numbers of the first million of them, ascending.
    pub failed_lines: Vec<u64>,
    /// True if some of them may succeed later.
    pub may_succeed_later: bool,
    /// Error of the first one: its code, and what is wrong.
    pub first_error: Option<String>,
}

/// Reason why a file's lines can't be imported, or not all of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileImportError {
    /// The bucket doesn't exist any more.
    #[error("the bucket was deleted")]
    UnknownBucket,
    /// The bucket can't be looked up now.
    #[error("look up the bucket")]
    Unavailable(#[from] Unavailable),
    /// The file can't be read.
    #[error("read {path}")]
    Read {
        /// Path of the file.
        path: String,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The service can't go on.
    #[error("import lines: {0}")]
    Failed(String),
}

impl FileImport<'_> {
    /// Imports all lines. Returns `None` if `stop` was cancelled first.
    pub(crate) async fn run(
        self,
        stop: &CancellationToken,
    ) -> Result<Option<FileImportReport>, FileImportError> {
        let bucket = self.find_bucket().await?;
        let file = File::open(self.path).await;
        let file = file.map_err(|source| self.read_error(source))?;
        let read_failure = Arc::new(OnceLock::new());
        let body = Body::from_stream(chunks(file, read_failure.clone()));
        let lines = BodyLines::new(body, BOUNDS);
        let directory = &self.service.directory;
        let store = BucketKeys {
            keyspace: self.service.keyspace.clone(),
            directory: directory.clone(),
            bucket,
        };
        let path = self.path;
        let mut report = FileImportReport::default();
        let (end, totals) = {
            let mut run = ImportRun {
                executor: Executor::new(store, ImportMode::Merge, RETRY),
                reader: BatchReader::skipping(lines, self.known),
                totals: Totals::default(),
                publish: |_: &Totals, _: u64, failures: &[LineFailure]| {
                    report.add_failures(failures);
                },
            };
            let rules = || rules_of(directory, &self.bucket, ImportMode::Merge);
            let end = stop.run_until_cancelled(run.run(rules, stop)).await;
            (end, run.totals)
        };
        match end {
            None | Some(ImportEnd::Stopped) => Ok(None),
            Some(ImportEnd::Complete) => Ok(Some(report.with_totals(&totals))),
            Some(ImportEnd::Failed(error)) => {
                let failure = Arc::into_inner(read_failure).and_then(OnceLock::into_inner);
                if let Some(source) = failure {
                    let path = path.display().to_string();
                    return Err(FileImportError::Read { path, source });
                }
                // It may have been deleted since the import began.
                if directory.bucket(&self.bucket).is_none() {
                    return Err(FileImportError::UnknownBucket);
                }
                let (_, code, message) = error.into_parts();
                Err(FileImportError::Failed(format!("{code}: {message}")))
            }
        }
    }

    async fn find_bucket(&self) -> Result<Arc<Bucket>, FileImportError> {
        let directory = &self.service.directory;
        if let Some(bucket) = directory.bucket(&self.bucket) {
            return Ok(bucket);
        }
        let found = directory.find_bucket(&self.bucket).await?;
        found.ok_or(FileImportError::UnknownBucket)
    }

    fn read_error(&self, source: io::Error) -> FileImportError {
        let path = self.path.display().to_string();
        FileImportError::Read { path, source }
    }
}

impl FileImportReport {
    /// Adds the failures of a batch, which are sorted, and after those of the batches before.
    fn add_failures(&mut self, failures: &[LineFailure]) {
        self.may_succeed_later |= failures.iter().any(|failure| failure.is_passing);
        let kept = MAX_FAILED_LINES - self.failed_lines.len();
        let numbers = failures.iter().map(|failure| failure.number);
        self.failed_lines.extend(numbers.take(kept));
    }

    fn with_totals(self, totals: &Totals) -> Self {
        let error = totals.first_error();
        Self {
            imported: totals.imported,
            skipped: totals.skipped,
            failed: totals.failed,
            first_error: error.map(|first| format!("{}: {}", first.code, first.message)),
            ..self
        }
    }
}

/// Reads a file piece by piece. An error is kept in `failure`, and ends it.
fn chunks(
    file: File,
    failure: Arc<OnceLock<io::Error>>,
) -> impl Stream<Item = Result<Bytes, &'static str>> {
    unfold(Some((file, failure)), |reading| async move {
        let (mut file, failure) = reading?;
        let mut chunk = vec![0; CHUNK_BYTES];
        match file.read(&mut chunk).await {
            Ok(0) => None,
            Ok(length) => {
                chunk.truncate(length);
                Some((Ok(Bytes::from(chunk)), Some((file, failure))))
            }
            Err(error) => {
                // It is the first one.
                let _ = failure.set(error);
                Some((Err("the file can't be read"), None))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::api::errors::ApiError;

    #[tokio::test]
    async fn a_file_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let content = "{\"key\":\"k\"}\n".repeat(CHUNK_BYTES / 8);
        std::fs::write(&path, &content).unwrap();
        let failure = Arc::default();
        let file = File::open(&path).await.unwrap();
        let read: Vec<_> = chunks(file, Arc::clone(&failure)).collect().await;
        assert!(read.len() > 1);
        let read: Vec<u8> = read.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(read, content.as_bytes());
        assert!(failure.get().is_none());
    }

    #[tokio::test]
    async fn an_error_of_the_disk_is_kept() {
        // A folder can be opened, and not be read.
        let dir = tempfile::tempdir().unwrap();
        let failure = Arc::default();
        let file = File::open(dir.path()).await.unwrap();
        let read: Vec<_> = chunks(file, Arc::clone(&failure)).collect().await;
        assert_eq!(read.len(), 1);
        assert!(read[0].is_err());
        assert!(failure.get().is_some());
    }

    #[test]
    fn failed_lines_are_counted_in_their_order() {
        let failure = |number, error| LineFailure::new(number, None, error);
        let mut report = FileImportReport::default();
        report.add_failures(&[failure(2, ApiError::value_too_large(5))]);
        assert!(!report.may_succeed_later);
        report.add_failures(&[
            failure(4, ApiError::unavailable()),
            failure(9, ApiError::value_too_large(5)),
        ]);
        assert!(report.may_succeed_later);
        assert_eq!(report.failed_lines, [2, 4, 9]);
    }
}
