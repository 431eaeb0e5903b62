//! Gathers the lines of an import into batches, which are executed one after the other.
//!
//! Invariant (order): no key is in a batch twice. So the lines of a key are executed in their
//! order, also where some are tried again.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::yield_now;

use super::lines::Line;
use super::mode::ImportMode;
use super::reader::{BodyLines, MAX_LINE_BYTES, NextLine};
use crate::api::errors::ApiError;
use crate::api::http::{expiry, path};
use crate::api::keys::{ImportLine, ImportPut};
use crate::service::{Bucket, Expiry, Nanos, Precondition, Put, Version};

/// Maximum number of lines of a batch.
const MAX_BATCH_LINES: usize = 1000;
/// Size of a batch's keys and values from which on no further line is added, in bytes.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Time that a batch waits for its next line before it is executed as it is.
const MAX_LINE_DELAY: Duration = Duration::from_millis(100);
/// Bytes of lines after which other requests of the thread get a turn.
const STEP_BYTES: usize = 64 << 10;

/// A line that is to be executed.
#[derive(Clone, Debug)]
pub(super) struct PutLine {
    /// Number of the line.
    pub number: u64,
    /// Key of the line.
    pub key: Bytes,
    /// The write, without a condition.
    pub put: Put,
    /// Version that the line has.
    pub version: Option<Version>,
}

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
}

impl LineFailure {
    pub(super) fn new(number: u64, key: Option<Bytes>, error: ApiError) -> Self {
        let (_, code, message) = error.into_parts();
        Self {
            number,
            key,
            code,
            message,
        }
    }
}

/// Lines of one batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Lines to be executed.
    pub puts: Vec<PutLine>,
    /// Lines that failed already.
    pub failures: Vec<LineFailure>,
    /// Number of lines whose keys have expired.
    pub expired: u64,
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
    pending: Option<PutLine>,
}

impl BatchReader {
    /// Creates a reader of a body's lines.
    pub(super) fn new(lines: BodyLines) -> Self {
        Self {
            lines,
            pending: None,
        }
    }

    /// Reads the next batch, which may have no lines to be executed.
    pub(super) async fn next(&mut self, rules: &LineRules) -> Batch {
        let mut building = BatchBuilder::default();
        if let Some(pending) = self.pending.take() {
            building.add_put(pending);
        }
        let mut step_bytes = 0;
        while !building.is_full() {
            let patience = if building.count == 0 {
                Duration::MAX
            } else {
                MAX_LINE_DELAY
            };
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
            step_bytes += building.add_line(line, rules, &mut self.pending);
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
    fn add_line(&mut self, line: Line, rules: &LineRules, pending: &mut Option<PutLine>) -> usize {
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
            ParsedLine::Put(put) if self.keys.contains(&put.key) => *pending = Some(put),
            ParsedLine::Put(put) => self.add_put(put),
            ParsedLine::Failed(failure) => self.add_failure(failure),
            ParsedLine::Expired => {
                self.batch.last_line = number;
                self.count += 1;
                self.batch.expired += 1;
            }
            ParsedLine::ExportEnd => self.batch.last_line = number,
        }
        length
    }

    fn add_put(&mut self, put: PutLine) {
        self.batch.last_line = put.number;
        self.count += 1;
        self.bytes += put.key.len() + put.put.value.len();
        self.keys.insert(put.key.clone());
        self.batch.puts.push(put);
    }

    fn add_failure(&mut self, failure: LineFailure) {
        self.batch.last_line = failure.number;
        self.count += 1;
        self.batch.failures.push(failure);
    }
}

/// A line as it is parsed, and checked against the limits of the bucket.
enum ParsedLine {
    Put(PutLine),
    /// Its key has expired since it was written.
    Expired,
    /// The last line of an export.
    ExportEnd,
    Failed(LineFailure),
}

fn parse_line(number: u64, content: &[u8], rules: &LineRules) -> ParsedLine {
    let ImportPut { key, put, version } = match ImportLine::parse(content, rules.now) {
        Ok(ImportLine::Put(put)) => put,
        Ok(ImportLine::Expired) => return ParsedLine::Expired,
        Ok(ImportLine::ExportEnd) => return ParsedLine::ExportEnd,
        Err(error) => return ParsedLine::Failed(LineFailure::new(number, None, error)),
    };
    if let Err(error) = check_put(&key, &put.value, version, rules) {
        return ParsedLine::Failed(LineFailure::new(number, Some(key), error));
    }
    ParsedLine::Put(PutLine {
        number,
        key,
        put: Put {
            value: put.value,
            content_type: put.content_type,
            metadata: put.metadata,
            expiry: put.expiry.unwrap_or(rules.default_expiry),
            precondition: Precondition::None,
        },
        version,
    })
}

fn check_put(
    key: &[u8],
    value: &[u8],
    version: Option<Version>,
    rules: &LineRules,
) -> Result<(), ApiError> {
    path::check_key(key, rules.key_bytes)?;
    if value.len() > rules.value_bytes {
        return Err(ApiError::value_too_large(rules.value_bytes));
    }
    if rules.mode == ImportMode::Newer && version.is_none() {
        let message = "mode=newer needs version, as an export writes it";
        return Err(ApiError::invalid_batch(message));
    }
    Ok(())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
