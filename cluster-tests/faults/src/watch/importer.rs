//! Imports under faults: what was exported in the middle of a run is imported into a bucket of its
//! own, again and again until the answer says that all of it is imported, and compared at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bucket_export::{BucketExport, ExportOutcome, export};
use super::projection::{IMPORTED_FIELDS, wait_equal_fields};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::transfer::LineClient;
use cloudkv_test_harness::watch::{BucketCopy, WatchOptions};
use cloudkv_test_harness::{ApiClient, Bucket};

/// Pause between two imports of what was exported, and between two attempts, in milliseconds.
const IMPORT_INTERVAL_MS: std::ops::Range<u64> = 3000..10_000;
const RETRY_INTERVAL_MS: std::ops::Range<u64> = 100..500;

/// Maximum number of imports; each has a bucket of its own.
const MAX_IMPORTS: usize = 4;

/// Number of lines that are sent at once.
const LINES_PER_PIECE: usize = 64;

/// Result of an attempt.
#[derive(Clone, Debug, PartialEq)]
enum ImportOutcome {
    Complete,
    /// Some of it may be imported; the reason in words.
    Partial(String),
}

/// An import into a bucket of its own.
struct BucketImport {
    bucket: Bucket,
    lines: Vec<String>,
    keys: BucketCopy,
    is_whole: bool,
    last_reason: String,
}

impl BucketImport {
    /// Imports keys without an expiry: at the end all of them must be there.
    fn new(bucket: Bucket, export: BucketExport) -> Self {
        let mut keys = export.keys;
        keys.retain(|_, fields| fields["expires_at"].is_null());
        let mut lines = export.lines;
        lines.retain(|line| {
            let fields: Value = serde_json::from_str(line).unwrap_or_default();
            fields["expires_at"].is_null()
        });
        Self {
            bucket,
            lines,
            keys,
            is_whole: false,
            last_reason: String::new(),
        }
    }

    /// Makes one attempt.
    ///
    /// # Errors
    /// Returns what no client should get.
    async fn attempt(&mut self, server: SocketAddr) -> Result<(), String> {
        match import(server, &self.bucket, &self.lines).await? {
            ImportOutcome::Complete => self.is_whole = true,
            ImportOutcome::Partial(reason) => self.last_reason = reason,
        }
        Ok(())
    }

    /// Compares the bucket with what was imported. Returns a failure.
    async fn check(&self, server: SocketAddr, limit: Duration) -> Option<String> {
        if !self.is_whole {
            let reason = &self.last_reason;
            return Some(format!("an import isn't whole at the end: {reason}"));
        }
        let options = WatchOptions {
            has_values: true,
            ..WatchOptions::new(&[server], &self.bucket)
        };
        let (api, keys) = (ApiClient::new(server), || Ok(self.keys.clone()));
        let equal = wait_equal_fields(&api, &options, &IMPORTED_FIELDS, limit, keys);
        let error = equal.await.err()?;
        Some(format!("an import: {error}"))
    }
}

/// Sends all lines, and reads the answer.
async fn import(
    server: SocketAddr,
    bucket: &Bucket,
    lines: &[String],
) -> Result<ImportOutcome, String> {
    let upload = LineClient::http1(server).import(bucket, "?mode=overwrite");
    for piece in lines.chunks(LINES_PER_PIECE) {
        if !upload.send(format!("{}\n", piece.join("\n"))).await {
            break;
        }
    }
    let stream = match upload.finish().await {
        Ok(stream) => stream,
        Err(error) => return Ok(ImportOutcome::Partial(error)),
    };
    let status = stream.head.status;
    if status != 200 {
        let response = format!("{:?}", stream.complete().await);
        // A bucket that was just created may not be known everywhere.
        let is_temporary = matches!(status, 404 | 503 | 504);
        return if is_temporary {
            Ok(ImportOutcome::Partial(response))
        } else {
            Err(format!("an import: {response}"))
        };
    }
    let (answer, _) = stream.remaining().await;
    judge(answer.last().map(String::as_str), lines.len() as u64)
}

/// Judges the last line of an answer to so many lines.
fn judge(last: Option<&str>, lines: u64) -> Result<ImportOutcome, String> {
    let last = last.unwrap_or_default();
    let end: Value = serde_json::from_str(last).unwrap_or_default();
    if end["end"] != true {
        return Ok(ImportOutcome::Partial(format!("no end: {last}")));
    }
    let count = |name: &str| end[name].as_u64();
    let counts = (count("imported"), count("skipped"), count("failed"));
    let (Some(imported), Some(0), Some(failed)) = counts else {
        return Err(format!("an import of {lines} lines ends with {last}"));
    };
    if imported + failed != lines {
        return Err(format!("an import of {lines} lines ends with {last}"));
    }
    Ok(if failed == 0 {
        ImportOutcome::Complete
    } else {
        ImportOutcome::Partial(last.to_owned())
    })
}

/// Imports what was exported until the run is stopped.
pub(super) struct Importer {
    source: Bucket,
    routers: Vec<SocketAddr>,
    rng: Rng,
    stop: Arc<AtomicBool>,
    imports: Vec<BucketImport>,
    attempts: u64,
    failures: Vec<String>,
}

impl Importer {
    /// Creates a client of these routers, which exports this bucket.
    pub(super) fn new(
        source: &Bucket,
        routers: &[SocketAddr],
        rng: Rng,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            source: source.clone(),
            routers: routers.to_vec(),
            rng,
            stop: stop.clone(),
            imports: vec![],
            attempts: 0,
            failures: vec![],
        }
    }

    /// Imports until the run is stopped, or an answer is wrong.
    pub(super) async fn run(mut self) -> Self {
        while !self.stop.load(Ordering::Relaxed) && self.failures.is_empty() {
            let pause = match self.imports.last() {
                Some(last) if !last.is_whole => RETRY_INTERVAL_MS,
                Some(_) | None => IMPORT_INTERVAL_MS,
            };
            let pause = self.rng.millis(pause);
            tokio::time::sleep(pause).await;
            self.advance().await;
        }
        self
    }

    /// Makes an attempt of the last import, or begins another one if that is whole.
    async fn advance(&mut self) {
        let router = self.routers[self.rng.index(self.routers.len())];
        if self.imports.last().is_none_or(|last| last.is_whole) {
            if self.imports.len() < MAX_IMPORTS {
                self.begin(router).await;
            }
            return;
        }
        let Some(last) = self.imports.last_mut() else {
            return;
        };
        self.attempts += 1;
        if let Err(failure) = last.attempt(router).await {
            last.last_reason.clone_from(&failure);
            self.failures.push(failure);
        }
    }

    async fn begin(&mut self, router: SocketAddr) {
        let source = match export(router, &self.source).await {
            Ok(ExportOutcome::Complete(source, _)) => source,
            Ok(ExportOutcome::Partial | ExportOutcome::Refused) => return,
            Err(failure) => return self.failures.push(failure),
        };
        let created = ApiClient::new(router).post("/buckets");
        let created = created.query(&[("plan", "pro")]).unchecked().try_send();
        if let Ok(response) = created.await
            && response.status == 201
        {
            let bucket = Bucket::from_response(&response);
            self.imports.push(BucketImport::new(bucket, source));
        }
    }

    /// Completes the last import once all is healthy, and compares all of them. Returns what
    /// happened, failures, and the buckets.
    pub(super) async fn finish(mut self, limit: Duration) -> (String, Vec<String>, Vec<Bucket>) {
        let started = Instant::now();
        while self.imports.last().is_none_or(|last| !last.is_whole)
            && self.failures.is_empty()
            && started.elapsed() < limit
        {
            self.advance().await;
            let pause = self.rng.millis(RETRY_INTERVAL_MS);
            tokio::time::sleep(pause).await;
        }
        if self.imports.is_empty() {
            self.failures.push("nothing could be imported".to_owned());
        }
        let router = self.routers[0];
        for import in &self.imports {
            self.failures.extend(import.check(router, limit).await);
        }
        let lines: usize = self.imports.iter().map(|import| import.lines.len()).sum();
        let note = format!(
            "imports: {} of {lines} lines in all, in {} attempts",
            self.imports.len(),
            self.attempts
        );
        let buckets = self.imports.into_iter().map(|import| import.bucket);
        (note, self.failures, buckets.collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(imported: u64, skipped: u64, failed: u64) -> Option<String> {
        let end = json!({"end": true, "imported": imported, "skipped": skipped, "failed": failed,
            "errors": []});
        Some(end.to_string())
    }

    #[test]
    fn an_import_is_whole_if_its_end_counts_all_lines() {
        let judge = |last: Option<String>| judge(last.as_deref(), 3);
        assert_eq!(judge(answer(3, 0, 0)), Ok(ImportOutcome::Complete));
        let is_partial = |last| matches!(judge(last), Ok(ImportOutcome::Partial(_)));
        assert!(is_partial(answer(2, 0, 1)));
        assert!(is_partial(None));
        let progress = json!({"lines": 3, "imported": 3}).to_string();
        assert!(is_partial(Some(progress)));
        for wrong in [answer(2, 0, 0), answer(4, 0, 0), answer(2, 1, 0)] {
            assert!(judge(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_with_an_expiry_are_left_out() {
        let lines = [
            json!({"key": "a", "value": "1", "expires_at": null}),
            json!({"key": "b", "value": "2", "expires_at": "2026-12-01T00:00:00Z"}),
        ];
        let keys = lines.iter().map(|line| {
            let name = line["key"].as_str().unwrap_or_default();
            (name.to_owned(), line.clone())
        });
        let export = BucketExport {
            keys: keys.collect(),
            lines: lines.iter().map(Value::to_string).collect(),
            since: None,
        };
        let bucket = Bucket {
            id: String::new(),
            account: String::new(),
            mode: String::new(),
            plan: String::new(),
        };
        let import = BucketImport::new(bucket, export);
        assert_eq!(import.lines, [lines[0].to_string()]);
        assert_eq!(import.keys.keys().collect::<Vec<_>>(), ["a"]);
    }
}
