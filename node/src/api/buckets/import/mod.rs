//! `POST /buckets/{bucket}/import`: writes any number of lines, each a key with its value.
//!
//! ```text
//!   body ── reader, lines ──► batch ──► execute (service/batch) ──► totals ──► response
//!             waits for the client        one ahead of the other      one line a second at most
//! ```
//!
//! The answer begins before the body has ended: its first lines tell the progress, the last one
//! what became of all lines. A line that is broken, or breaks a limit of the bucket, fails by
//! itself. An import that broke off can be run again: each line then is done once more, or skipped.
//!
//! | file | what it does |
//! | --- | --- |
//! | `mode` | what becomes of keys that exist |
//! | `reader`, `lines` | waits for the body, and splits it into lines |
//! | `batch` | parses lines, and gathers them into batches |
//! | `execute` | executes a batch |
//! | `file` | an import of a file's lines, without a client |
//! | `job` | the task of an import |
//! | `progress`, `response` | the lines of the answer, and its body |

mod batch;
mod execute;
mod file;
mod job;
mod lines;
mod mode;
mod progress;
mod reader;
mod response;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) use self::batch::KnownLines;
pub(crate) use self::file::{FileImport, FileImportError, FileImportReport};
pub(crate) use self::mode::{ImportMode, PARAMETERS as IMPORT_PARAMETERS};
pub(crate) use self::progress::{EndLine, ProgressLine};

use self::batch::BatchReader;
use self::job::ImportJob;
use self::progress::Progress;
use self::reader::BodyLines;
use self::response::ImportBody;
use crate::api::buckets::extract::OwnedBucket;
use crate::api::buckets::state::BucketsState;
use crate::api::errors::ApiError;
use crate::api::http::headers::NDJSON;
use crate::api::http::query::Query;

/// Handles `POST /buckets/{bucket}/import`.
pub(crate) async fn import(
    State(state): State<BucketsState>,
    OwnedBucket(bucket): OwnedBucket,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let mode = ImportMode::parse(Query::new(query.as_deref()))?;
    let permit = state.import_permits.try_acquire(bucket.owner);
    let permit = permit.ok_or_else(ApiError::too_many_imports)?;
    let mut lines = BodyLines::new(body, state.body_reader.stream_bounds());
    // Before the answer: a client that waits for `100 Continue` gets it at the first read.
    check_form(&lines.first_chunk().await?)?;
    let (end, last_line) = oneshot::channel();
    let (progress, stop) = (Arc::<Progress>::default(), CancellationToken::new());
    let response = ImportBody::new(progress.clone(), last_line, stop.clone().drop_guard());
    let job = ImportJob {
        keyspace: state.service.keyspace,
        directory: state.directory,
        bucket,
        mode,
        reader: BatchReader::new(lines),
        metrics: state.metrics,
        progress,
        end,
        stop,
        permit,
    };
    tokio::spawn(job.run());
    let mut response = Response::new(Body::new(response));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, NDJSON);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Refuses an array of lines, as bulk writes of Workers KV are kept in files.
fn check_form(beginning: &[u8]) -> Result<(), ApiError> {
    if beginning.trim_ascii_start().starts_with(b"[") {
        let message = "an import has a JSON object on each line, and no array of them (jq -c '.[]' \
                       makes lines of one)";
        return Err(ApiError::invalid_body(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_refused_as_a_whole() {
        assert!(check_form(b"").is_ok());
        assert!(check_form(b" {\"key\"").is_ok());
        let error = check_form(b"\n [{\"key\"").unwrap_err();
        assert_eq!(error.code(), "invalid_body");
    }
}
