//! Parses the body of a batch: an operation on each line, or an array of them.
//!
//! A malformed operation refuses the batch with its number, before anything is done.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::value::RawValue;

use super::fields::InvalidOperation;
use super::operation::Operation;
use crate::api::errors::ApiError;
use crate::api::http::request_headers::single;
use crate::service::Nanos;

/// Form of a batch, and of the answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchFormat {
    /// `application/x-ndjson`: a JSON object on each line.
    Lines,
    /// `application/json`: an array of objects.
    Array,
}

impl BatchFormat {
    /// Returns the form that a request declares; `None` if it declares none.
    pub(crate) fn declared(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let Some(value) = single(headers, &CONTENT_TYPE)? else {
            return Ok(None);
        };
        let media_type = value.as_bytes().split(|byte| *byte == b';').next();
        let media_type = media_type.unwrap_or_default().trim_ascii();
        if media_type.is_empty() {
            Ok(None)
        } else if media_type.eq_ignore_ascii_case(b"application/x-ndjson") {
            Ok(Some(Self::Lines))
        } else if media_type.eq_ignore_ascii_case(b"application/json") {
            Ok(Some(Self::Array))
        } else {
            Err(ApiError::unsupported_batch_type())
        }
    }

    fn detect(body: &[u8]) -> Self {
        if body.trim_ascii_start().starts_with(b"[") {
            Self::Array
        } else {
            Self::Lines
        }
    }
}

/// Parser of a batch's body. It works in steps, so that a large batch doesn't hold up its thread.
pub(crate) struct BatchParser<'a> {
    format: BatchFormat,
    rest: &'a [u8],
    /// Number of the last line or element.
    number: usize,
    is_ended: bool,
    max_operations: usize,
    now: Nanos,
    operations: Vec<Operation>,
}

impl<'a> BatchParser<'a> {
    /// Creates a parser of a body of the declared form, with at most `max_operations` operations.
    /// Times of expiry must lie after `now`.
    pub(crate) fn new(
        declared: Option<BatchFormat>,
        body: &'a [u8],
        max_operations: usize,
        now: Nanos,
    ) -> Result<Self, ApiError> {
        let format = declared.unwrap_or_else(|| BatchFormat::detect(body));
        let rest = match format {
            BatchFormat::Lines => body,
            BatchFormat::Array => body.trim_ascii_start().strip_prefix(b"[").ok_or_else(|| {
                ApiError::invalid_batch(
                    "a batch as application/json must be an array of operations; one operation on \
                     each line is application/x-ndjson",
                )
            })?,
        };
        Ok(Self {
            format,
            rest,
            number: 0,
            is_ended: false,
            max_operations,
            now,
            operations: Vec::new(),
        })
    }

    /// Returns the form of the batch.
    pub(crate) fn format(&self) -> BatchFormat {
        self.format
    }

    /// Parses operations of about so many bytes. Returns whether the end was reached.
    pub(crate) fn advance(&mut self, bytes: usize) -> Result<bool, ApiError> {
        let until = self.rest.len().saturating_sub(bytes);
        while !self.is_ended && self.rest.len() >= until {
            let parsed = self.next_operation();
            match parsed.map_err(|error| self.refusal(&error))? {
                Some(operation) if self.operations.len() < self.max_operations => {
                    self.operations.push(operation);
                }
                Some(_) => return Err(ApiError::too_many_operations(self.max_operations)),
                None => self.is_ended = true,
            }
        }
        Ok(self.is_ended)
    }

    /// Returns all operations; fails if there are none.
    pub(crate) fn finish(mut self) -> Result<Vec<Operation>, ApiError> {
        while !self.advance(usize::MAX)? {}
        if self.operations.is_empty() {
            let message = "a batch must have an operation at least";
            return Err(ApiError::invalid_batch(message));
        }
        Ok(self.operations)
    }

    fn refusal(&self, error: &InvalidOperation) -> ApiError {
        let what = match self.format {
            BatchFormat::Lines => "line",
            BatchFormat::Array => "element",
        };
        ApiError::invalid_batch(format!("{what} {}: {error}", self.number))
    }

    fn next_operation(&mut self) -> Result<Option<Operation>, InvalidOperation> {
        let json = match self.format {
            BatchFormat::Lines => self.next_line(),
            BatchFormat::Array => self.next_element()?.map(|element| element.get().as_bytes()),
        };
        let operation = json.map(|json| Operation::parse(json, self.now));
        operation.transpose()
    }

    /// Returns the next line that isn't empty.
    fn next_line(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let (line, rest) = match self.rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
                None => self.rest.split_at(self.rest.len()),
            };
            self.rest = rest;
            self.number += 1;
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
        None
    }

    /// Returns the next element of the array.
    fn next_element(&mut self) -> Result<Option<&'a RawValue>, InvalidOperation> {
        let rest = self.rest.trim_ascii_start();
        let is_first = self.number == 0;
        self.number += 1;
        let rest = match rest.first() {
            Some(b']') => return self.end_array(&rest[1..]).map(|()| None),
            Some(b',') if !is_first => &rest[1..],
            Some(_) if is_first => rest,
            Some(_) => {
                let message = "a comma or the array's end must come before it";
                return Err(InvalidOperation::new(message));
            }
            None => return Err(InvalidOperation::new("the array has no end")),
        };
        let mut elements = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        let Some(element) = elements.next().transpose()? else {
            return Err(InvalidOperation::new("the array has no end"));
        };
        self.rest = &rest[elements.byte_offset()..];
        Ok(Some(element))
    }

    fn end_array(&mut self, rest: &[u8]) -> Result<(), InvalidOperation> {
        self.rest = &[];
        if rest.trim_ascii().is_empty() {
            Ok(())
        } else {
            let message = "the array has ended, and more follows";
            Err(InvalidOperation::new(message))
        }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
