//! Gathers the lines of an import into batches, which are executed one after the other.
//!
//! Invariant (order): no key is in a batch twice. So the lines of a key are executed in their
//! order, also where some are tried again.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::lines::Line;
use super::mode::ImportMode;
use super::reader::{BodyLines, MAX_LINE_BYTES, NextLine};
use crate::api::errors::ApiError;
use crate::api::http::{expiry, path};
use crate::api::keys::{ImportDelete, ImportLine, ImportPut};
use crate::service::{Bucket, Expiry, Nanos, Precondition, Put, Version};

/// Maximum number of lines of a batch.
const MAX_BATCH_LINES: usize = 1000;
/// Size of a batch's keys and values from which on no further line is added, in bytes.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Time that a batch waits for further lines from its first one on, before it is executed as it is.
const MAX_LINE_DELAY: Duration = Duration::from_millis(100);
/// Bytes of lines after which other requests of the thread get a turn.
const STEP_BYTES: usize = 64 << 10;

/// A line that is to be executed.
#[derive(Clone, Debug)]
pub(super) struct WriteLine {
    /// Number of the line.
    pub number: u64,
    /// Key of the line.
    pub key: Bytes,
    /// The write, without a condition.
    pub write: LineWrite,
    /// Version that the line has.
    pub version: Option<Version>,
}

/// Write of a line.
#[derive(Clone, Debug)]
pub(super) enum LineWrite {
    /// Writes a value.
    Put(Put),
    /// Deletes the key.
    Delete,
}

impl WriteLine {
    /// Returns whether the line deletes its key.
    pub(super) fn is_delete(&self) -> bool {
        matches!(self.write, LineWrite::Delete)
    }

    /// Returns the size of key and value, in bytes.
    fn size(&self) -> usize {
        match &self.write {
            LineWrite::Put(put) => self.key.len() + put.value.len(),
            LineWrite::Delete => self.key.len(),
        }
    }
}

/// Returns whether a line of a key and a version has nothing that isn't known here already.
pub(crate) type KnownLines = Box<dyn Fn(&[u8], Version) -> bool + Send + Sync>;

/// A line that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LineFailure {
    /// Number of the line.
    pub number: u64,
    /// Key of the line, if it is known.
    pub key: Option<Bytes>,
    /// Stable code of the error.
    pub code: &'static str,
    /// What is wrong.
    pub message: Cow<'static, str>,
    /// True if the same line may succeed later: nothing is wrong with it.
    pub is_passing: bool,
}

impl LineFailure {
    pub(super) fn new(number: u64, key: Option<Bytes>, error: ApiError) -> Self {
        let (status, code, message) = error.into_parts();
        Self {
            number,
            key,
            code,
            message,
            is_passing: status.is_server_error(),
        }
    }
}

/// Lines of one batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Lines to be executed.
    pub writes: Vec<WriteLine>,
    /// Lines that failed already.
    pub failures: Vec<LineFailure>,
    /// Number of lines whose keys have expired, or that are known.
    pub skipped: u64,
    /// Number of the last line.
    pub last_line: u64,
    /// Set if nothing follows.
    pub end: Option<BodyEnd>,
}

/// End of an import's body.
#[derive(Debug)]
pub(super) enum BodyEnd {
    /// All was read.
    Complete,
    /// The rest can't be read.
    Failed(ApiError),
}

/// What a bucket allows, and what a line means that leaves something open.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineRules {
    /// Maximum size of a key, in bytes.
    pub key_bytes: usize,
    /// Maximum size of a value, in bytes.
    pub value_bytes: usize,
    /// Expiry of lines that name none.
    pub default_expiry: Expiry,
    pub mode: ImportMode,
    pub now: Nanos,
}

impl LineRules {
    /// Returns the rules of a bucket.
    pub(super) fn of(bucket: &Bucket, mode: ImportMode, now: Nanos) -> Self {
        Self {
            key_bytes: bucket.limits.key_bytes,
            value_bytes: bucket.limits.value_bytes,
            default_expiry: expiry::default_of(bucket),
            mode,
            now,
        }
    }
}

/// Reader of batches.
pub(super) struct BatchReader {
    lines: BodyLines,
    /// Line that was read, and belongs to the next batch.
    pending: Option<WriteLine>,
    known: Option<KnownLines>,
}

impl BatchReader {
    /// Creates a reader of a body's lines.
    pub(super) fn new(lines: BodyLines) -> Self {
        Self {
            lines,
            pending: None,
            known: None,
        }
    }

    /// Creates a reader that skips the lines that are known.
    pub(super) fn skipping(lines: BodyLines, known: KnownLines) -> Self {
        Self {
            known: Some(known),
            ..Self::new(lines)
        }
    }

    /// Reads the next batch, which may have no lines to be executed.
    pub(super) async fn next(&mut self, rules: &LineRules) -> Batch {
        let mut building = BatchBuilder::default();
        if let Some(pending) = self.pending.take() {
            building.add_write(pending);
        }
        let mut step_bytes = 0;
        let mut held_until = None;
        while !building.is_full() {
            if building.count > 0 && held_until.is_none() {
                held_until = Some(Instant::now() + MAX_LINE_DELAY);
            }
            let patience = held_until.map_or(Duration::MAX, |until| {
                until.saturating_duration_since(Instant::now())
            });
            let line = match self.lines.next(patience).await {
                Ok(NextLine::Line(line)) => line,
                Ok(NextLine::Idle) => break,
                Ok(NextLine::End) => {
                    building.batch.end = Some(BodyEnd::Complete);
                    break;
                }
                Err(error) => {
                    building.batch.end = Some(BodyEnd::Failed(error));
                    break;
                }
            };
            let known = self.known.as_ref();
            step_bytes += building.add_line(line, rules, known, &mut self.pending);
            if self.pending.is_some() {
                break;
            }
            if step_bytes >= STEP_BYTES {
                step_bytes = 0;
                yield_now().await;
            }
        }
        building.batch
    }
}

/// Batch that is being read.
#[derive(Default)]
struct BatchBuilder {
    batch: Batch,
    keys: HashSet<Bytes>,
    /// Number of lines that aren't empty.
    count: usize,
    /// Size of the keys and values.
    bytes: usize,
}

impl BatchBuilder {
    fn is_full(&self) -> bool {
        self.count >= MAX_BATCH_LINES || self.bytes >= MAX_BATCH_BYTES
    }

    /// Adds a line, or makes it `pending` if its key is in the batch. Returns its length.
    fn add_line(
        &mut self,
        line: Line,
        rules: &LineRules,
        known: Option<&KnownLines>,
        pending: &mut Option<WriteLine>,
    ) -> usize {
        let (number, content) = match line {
            Line::Complete { number, content } => (number, content),
            Line::TooLong { number } => {
                let error = ApiError::invalid_batch(format!(
                    "a line must have at most {MAX_LINE_BYTES} bytes"
                ));
                self.add_failure(LineFailure::new(number, None, error));
                return 0;
            }
        };
        let length = content.len();
        if content.trim_ascii().is_empty() {
            self.batch.last_line = number;
            return length;
        }
        match parse_line(number, &content, rules) {
            ParsedLine::Write(line) if is_known(&line, known) => self.add_skipped(number),
            ParsedLine::Write(line) if self.keys.contains(&line.key) => *pending = Some(line),
            ParsedLine::Write(line) => self.add_write(line),
            ParsedLine::Failed(failure) => self.add_failure(failure),
            ParsedLine::Expired => self.add_skipped(number),
            ParsedLine::ExportEnd => self.batch.last_line = number,
        }
        length
    }

    fn add_write(&mut self, line: WriteLine) {
        self.batch.last_line = line.number;
        self.count += 1;
        self.bytes += line.size();
        self.keys.insert(line.key.clone());
        self.batch.writes.push(line);
    }

    fn add_skipped(&mut self, number: u64) {
        self.batch.last_line = number;
        self.count += 1;
        self.batch.skipped += 1;
    }

    fn add_failure(&mut self, failure: LineFailure) {
        self.batch.last_line = failure.number;
        self.count += 1;
        self.batch.failures.push(failure);
    }
}

fn is_known(line: &WriteLine, known: Option<&KnownLines>) -> bool {
    match (known, line.version) {
        (Some(known), Some(version)) => known(&line.key, version),
        (None, _) | (_, None) => false,
    }
}

/// A line as it is parsed, and checked against the limits of the bucket.
enum ParsedLine {
    Write(WriteLine),
    /// Its key has expired since it was written.
    Expired,
    /// The last line of an export.
    ExportEnd,
    Failed(LineFailure),
}

fn parse_line(number: u64, content: &[u8], rules: &LineRules) -> ParsedLine {
    let parsed = match ImportLine::parse(content, rules.now) {
        Ok(ImportLine::Put(put)) => check_put(number, put, rules),
        Ok(ImportLine::Delete(delete)) => check_delete(number, delete, rules),
        // What it had replaced must not come back.
        Ok(ImportLine::Expired(line)) if rules.mode == ImportMode::Merge => {
            check_delete(number, line, rules)
        }
        Ok(ImportLine::Expired(_)) => return ParsedLine::Expired,
        Ok(ImportLine::ExportEnd) => return ParsedLine::ExportEnd,
        Err(error) => Err(LineFailure::new(number, None, error)),
    };
    parsed.map_or_else(ParsedLine::Failed, ParsedLine::Write)
}

fn check_put(number: u64, line: ImportPut, rules: &LineRules) -> Result<WriteLine, LineFailure> {
    let ImportPut { key, put, version } = line;
    let check = || {
        path::check_key(&key, rules.key_bytes)?;
        if put.value.len() > rules.value_bytes {
            return Err(ApiError::value_too_large(rules.value_bytes));
        }
        check_version(version, rules)
    };
    if let Err(error) = check() {
        return Err(LineFailure::new(number, kept_key(key, rules), error));
    }
    let write = LineWrite::Put(Put {
        value: put.value,
        content_type: put.content_type,
        metadata: put.metadata,
        expiry: put.expiry.unwrap_or(rules.default_expiry),
        precondition: Precondition::None,
    });
    Ok(WriteLine {
        number,
        key,
        write,
        version,
    })
}

fn check_delete(
    number: u64,
    line: ImportDelete,
    rules: &LineRules,
) -> Result<WriteLine, LineFailure> {
    let ImportDelete { key, version } = line;
    let check = || {
        path::check_key(&key, rules.key_bytes)?;
        if !rules.mode.compares_versions() {
            let message = "a line of an import deletes with mode=newer only: a delete without \
                           comparing versions is an operation of a batch";
            return Err(ApiError::invalid_batch(message));
        }
        check_version(version, rules)
    };
    if let Err(error) = check() {
        return Err(LineFailure::new(number, kept_key(key, rules), error));
    }
    Ok(WriteLine {
        number,
        key,
        write: LineWrite::Delete,
        version,
    })
}

/// Returns the key of a line that failed, unless it is too long: a key can be as long as a line, and
/// the failures of a whole import are kept.
fn kept_key(key: Bytes, rules: &LineRules) -> Option<Bytes> {
    (key.len() <= rules.key_bytes).then_some(key)
}

fn check_version(version: Option<Version>, rules: &LineRules) -> Result<(), ApiError> {
    if rules.mode.compares_versions() && version.is_none() {
        let message = "mode=newer needs version, as an export writes it";
        return Err(ApiError::invalid_batch(message));
    }
    Ok(())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
