//! Progress of an import, and the lines that tell it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use super::batch::LineFailure;
use crate::api::errors::ApiError;

/// Maximum number of errors that the last line lists.
const MAX_LISTED_ERRORS: usize = 100;
/// Minimum and maximum interval between two progress lines. A router gives a response up from which
/// nothing comes for a minute.
const LINE_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// Share of an import's time that is its interval between progress lines.
const INTERVAL_DIVISOR: u32 = 100;

/// Returns the interval between progress lines, some time after the begin. It grows, so that hours
/// of progress fit into the buffers of a connection whose client reads only at the end.
pub(super) fn line_interval(elapsed: Duration) -> Duration {
    let (min, max) = LINE_INTERVAL;
    (elapsed / INTERVAL_DIVISOR).clamp(min, max)
}

/// Progress of one import, as its response sees it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    lines: AtomicU64,
    imported: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
}

/// Line that tells how far an import is.
#[derive(Serialize, ToSchema)]
#[schema(as = ImportProgress)]
pub(crate) struct ProgressLine {
    /// Number of lines that are done.
    lines: u64,
    /// Number of lines whose keys were written.
    imported: u64,
    /// Number of lines whose keys stay, since the mode says so, or have expired.
    skipped: u64,
    /// Number of lines that failed.
    failed: u64,
}

/// Last line of an import.
#[derive(Serialize, ToSchema)]
#[schema(as = ImportResult)]
pub(crate) struct EndLine<'a> {
    /// True: all lines were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<bool>,
    /// Stable code of the error that has ended the import early.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// What is wrong, and how to avoid it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// Number of the last line that is done, if the import has ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u64>,
    /// Number of lines whose keys were written.
    imported: u64,
    /// Number of lines whose keys stay, since the mode says so, or have expired.
    skipped: u64,
    /// Number of lines that failed.
    failed: u64,
    /// The first 100 of them.
    errors: Vec<ImportError<'a>>,
}

/// A line that failed.
#[derive(Serialize, ToSchema)]
struct ImportError<'a> {
    /// Number of the line.
    line: u64,
    /// The key, if the line has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// Stable code of the error.
    error: &'a str,
    /// What is wrong, and how to avoid it.
    message: &'a str,
}

impl Progress {
    /// Returns the line that tells the progress, with its newline.
    pub(super) fn line(&self) -> Bytes {
        let line = ProgressLine {
            lines: self.lines.load(Ordering::Relaxed),
            imported: self.imported.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        };
        to_line(&line)
    }
}

/// Result of the batches that are done.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Number of the last line that is done.
    pub lines: u64,
    pub imported: u64,
    pub skipped: u64,
    pub failed: u64,
    /// The first failures, in the order of their lines.
    errors: Vec<LineFailure>,
}

impl Totals {
    /// Sorts the failures of a batch, all of them after those of the batches before, and adds them.
    pub(super) fn add_failures(&mut self, failures: &mut [LineFailure]) {
        self.failed += failures.len() as u64;
        let listed = MAX_LISTED_ERRORS - self.errors.len();
        failures.sort_by_key(|failure| failure.number);
        self.errors.extend(failures.iter().take(listed).cloned());
    }

    /// Returns the first failure.
    pub(super) fn first_error(&self) -> Option<&LineFailure> {
        self.errors.first()
    }

    /// Shows the totals to the response.
    pub(super) fn publish(&self, progress: &Progress) {
        progress.lines.store(self.lines, Ordering::Relaxed);
        progress.imported.store(self.imported, Ordering::Relaxed);
        progress.skipped.store(self.skipped, Ordering::Relaxed);
        progress.failed.store(self.failed, Ordering::Relaxed);
    }

    /// Returns the last line, with its newline. `error` has ended the import early.
    pub(super) fn end_line(&self, error: Option<ApiError>) -> Bytes {
        let error = error.map(ApiError::into_parts);
        let (code, message) = match &error {
            Some((_, code, message)) => (Some(*code), Some(&**message)),
            None => (None, None),
        };
        to_line(&EndLine {
            end: error.is_none().then_some(true),
            error: code,
            message,
            lines: error.is_some().then_some(self.lines),
            imported: self.imported,
            skipped: self.skipped,
            failed: self.failed,
            errors: self.errors.iter().map(listed).collect(),
        })
    }
}

fn listed(failure: &LineFailure) -> ImportError<'_> {
    let key = failure.key.as_deref();
    ImportError {
        line: failure.number,
        // It comes from JSON, so it is UTF-8.
        key: key.and_then(|key| std::str::from_utf8(key).ok()),
        error: failure.code,
        message: &failure.message,
    }
}

/// Writes a line. Numbers and texts can always be written as JSON.
fn to_line(line: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    Bytes::from(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn failure(number: u64) -> LineFailure {
        let error = ApiError::invalid_batch("key is missing");
        LineFailure::new(number, None, error)
    }

    fn parse(line: &Bytes) -> Value {
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(line).unwrap()
    }

    #[test]
    fn lines_become_rarer_so_that_hours_of_them_fit_into_64_kib() {
        let second = Duration::from_secs(1);
        assert_eq!(line_interval(Duration::ZERO), second);
        assert_eq!(line_interval(100 * second), second);
        assert_eq!(line_interval(1000 * second), 10 * second);
        assert_eq!(line_interval(100_000 * second), 20 * second);
        let progress = Progress::default();
        progress.lines.store(100_000_000, Ordering::Relaxed);
        progress.imported.store(100_000_000, Ordering::Relaxed);
        let (mut elapsed, mut bytes) = (Duration::ZERO, 0);
        while elapsed < 3 * 3600 * second {
            elapsed += line_interval(elapsed);
            bytes += progress.line().len();
        }
        assert!(bytes < 64 << 10, "{bytes} bytes");
    }

    #[test]
    fn progress_is_what_was_published() {
        let (mut totals, progress) = (Totals::default(), Progress::default());
        let none = json!({"lines": 0, "imported": 0, "skipped": 0, "failed": 0});
        assert_eq!(parse(&progress.line()), none);
        totals.lines = 9;
        totals.imported = 4;
        totals.skipped = 3;
        totals.add_failures(&mut [failure(8)]);
        totals.publish(&progress);
        let expected = json!({"lines": 9, "imported": 4, "skipped": 3, "failed": 1});
        assert_eq!(parse(&progress.line()), expected);
    }

    #[test]
    fn the_end_lists_the_first_errors_in_the_order_of_their_lines() {
        let mut totals = Totals::default();
        let key = Some(Bytes::from("ключ"));
        let known = LineFailure::new(1, key, ApiError::value_too_large(5));
        totals.add_failures(&mut [failure(3), known]);
        totals.add_failures(&mut (4..1000).map(failure).collect::<Vec<_>>());
        let end = parse(&totals.end_line(None));
        assert_eq!(end["end"], true);
        assert_eq!(end["failed"], 998);
        assert_eq!(end["errors"].as_array().unwrap().len(), MAX_LISTED_ERRORS);
        assert_eq!(
            end["errors"][0],
            json!({"line": 1, "key": "ключ", "error": "value_too_large",
                   "message": "a value must have at most 5 bytes in this bucket"})
        );
        assert_eq!(
            end["errors"][1],
            json!({"line": 3, "error": "invalid_batch", "message": "key is missing"})
        );
        assert_eq!(end["errors"][99]["line"], 101);
        assert!(end.get("lines").is_none() && end.get("error").is_none());
    }

    #[test]
    fn an_import_that_ended_early_says_why_and_where() {
        let totals = Totals {
            lines: 7,
            imported: 7,
            ..Totals::default()
        };
        let end = parse(&totals.end_line(Some(ApiError::body_timeout())));
        let message = "the request's body stopped arriving";
        assert_eq!(
            end,
            json!({"error": "request_timeout", "message": message, "lines": 7, "imported": 7,
                   "skipped": 0, "failed": 0, "errors": []})
        );
    }
}
