//! POST of a bucket: a batch of operations on its keys, each with an outcome of its own.
//!
//! ```text
//!  body ── parse ──► operations ── admission ──► execution (service/batch) ── respond ──► lines
//!            │                         │
//!   400, nothing is done       refused: its own line
//! ```
//!
//! A batch isn't atomic. Memory: the body's permit is kept until the answer is complete, and a
//! value of the answer takes its share of the memory for answers before it is kept, with the rest
//! of its line. Answers are bounded whatever the settings allow in a request (`answer_budget`).

mod admission;
mod answer_budget;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod import_line;
mod operation;
mod parse;
mod respond;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};
use tokio::task::yield_now;

pub(crate) use self::fields::Field as BatchField;
pub(crate) use self::import_line::{ImportDelete, ImportLine, ImportPut};
pub(crate) use self::operation::Kind as BatchOperationKind;
pub(crate) use self::respond::AnswerLine;

use self::admission::Admission;
use self::answer_budget::AnswerBudget;
use self::operation::Operation;
use self::parse::{BatchFormat, BatchParser};
use self::respond::{AnswerWriter, LineError};
use crate::api::Api;
use crate::api::access;
use crate::api::batch_limits::BatchLimits;
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::headers::{JSON, X_CLOUDKV_VERSION};
use crate::api::http::receive::IncomingBody;
use crate::api::http::session;
use crate::api::keys::request_head::{KeyRequestHead, reuse_header_map};
use crate::service::{BatchOperation, BatchOutcome, Bucket, Nanos, Version};

/// Bytes of a body or an answer after which other requests of the thread get a turn.
const STEP_BYTES: usize = 64 << 10;

/// Handles a batch.
pub(super) async fn batch<B: IncomingBody>(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    mut body: B,
) -> Result<Response<Body>, ApiError> {
    let (directory, limits) = (&api.service.directory, api.batch_limits);
    // Access depends on the operations; for a bucket that doesn't exist, none are read.
    access::find_bucket(directory, head.bucket).await?;
    head.query.refuse_unknown(&[])?;
    let declared = BatchFormat::declared(&head.headers)?;
    let session = session::from_request(&head.headers, directory).await?;
    let client = head
        .peer
        .client_address(&head.headers, &api.trusted_proxies);
    let too_large = ApiError::batch_too_large;
    let reader = &api.body_reader;
    let mut received = reader
        .receive(&mut body, limits.bytes, || client, too_large)
        .await?;
    let content = std::mem::take(&mut received.bytes);
    let (format, operations) = parse(declared, content, limits, directory.now()).await?;
    let admission = Admission::judge(directory, head, &operations).await?;
    let (admitted, keys) = admit_all(&admission, operations);
    let answered = keys.iter().map(|answered| &answered.key[..]);
    let values = AnswerBudget::new(&api.answer_memory, client, answered);
    let (mut outcomes, mut token) = (Vec::new(), None);
    if let Some(bucket) = admission.bucket() {
        let keyspace = &api.service.keyspace;
        let executed = keyspace.execute_batch(bucket, admitted, &session, &values);
        outcomes = executed.await;
        count_reads(bucket, &outcomes);
        let seen = seen_versions(&keys, &outcomes);
        token = session::response_token_of_all(session, bucket, seen, &api.service);
    }
    let answer = AnswerWriter::new(format, &values, keys.len());
    let answer = write_answer(answer, keys, outcomes).await?;
    Ok(response(head, format, answer, token))
}

/// Key of an operation, in the order of the batch.
struct AnsweredKey {
    key: Bytes,
    /// Reason why the operation isn't executed.
    refused: Option<LineError>,
}

/// Returns the operations that may be executed, and the keys of all.
fn admit_all(
    admission: &Admission,
    operations: Vec<Operation>,
) -> (Vec<BatchOperation>, Vec<AnsweredKey>) {
    let mut admitted = Vec::with_capacity(operations.len());
    let mut keys = Vec::with_capacity(operations.len());
    for operation in operations {
        let key = operation.key.clone();
        let refused = match admission.admit(operation) {
            Ok(operation) => {
                admitted.push(operation);
                None
            }
            Err(error) => Some(error),
        };
        keys.push(AnsweredKey { key, refused });
    }
    (admitted, keys)
}

/// Returns the keys whose versions the client sees, and these.
fn seen_versions<'a>(
    keys: &'a [AnsweredKey],
    outcomes: &'a [BatchOutcome],
) -> impl Iterator<Item = (&'a [u8], Version)> {
    let executed = keys.iter().filter(|answered| answered.refused.is_none());
    executed.zip(outcomes).filter_map(|(answered, outcome)| {
        let version = outcome.seen_version()?;
        Some((&answered.key[..], version))
    })
}

/// Parses a body, which is released then.
async fn parse(
    declared: Option<BatchFormat>,
    body: Bytes,
    limits: BatchLimits,
    now: Nanos,
) -> Result<(BatchFormat, Vec<Operation>), ApiError> {
    let mut parser = BatchParser::new(declared, &body, limits.operations, now)?;
    while !parser.advance(STEP_BYTES)? {
        yield_now().await;
    }
    Ok((parser.format(), parser.finish()?))
}

/// Writes the line of each key; those that weren't refused have the outcomes in their order.
async fn write_answer(
    mut answer: AnswerWriter,
    keys: Vec<AnsweredKey>,
    outcomes: Vec<BatchOutcome>,
) -> Result<Vec<u8>, ApiError> {
    let mut outcomes = outcomes.into_iter();
    let mut next_turn = STEP_BYTES;
    for AnsweredKey { key, refused } in keys {
        match refused {
            Some(error) => answer.write_error(&key, &error)?,
            None => match outcomes.next() {
                Some(outcome) => answer.write_outcome(&key, outcome)?,
                None => answer.write_error(&key, &ApiError::unknown_outcome().into())?,
            },
        }
        if answer.bytes() >= next_turn {
            yield_now().await;
            next_turn = answer.bytes() + STEP_BYTES;
        }
    }
    Ok(answer.finish())
}

fn response(
    head: &mut KeyRequestHead<'_>,
    format: BatchFormat,
    answer: Vec<u8>,
    token: Option<HeaderValue>,
) -> Response<Body> {
    let mut response = reuse_header_map(&mut head.headers);
    let content_type = match format {
        BatchFormat::Lines => HeaderValue::from_static("application/x-ndjson"),
        BatchFormat::Array => JSON,
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(token) = token {
        headers.insert(&X_CLOUDKV_VERSION, token);
    }
    *response.body_mut() = Body::full(answer);
    response
}

/// Counts the reads of a batch, each like that of a single GET.
fn count_reads(bucket: &Bucket, outcomes: &[BatchOutcome]) {
    for outcome in outcomes {
        match outcome {
            BatchOutcome::Value(_) | BatchOutcome::NotModified(_) => bucket.count_read(true),
            BatchOutcome::Deleted(_) | BatchOutcome::Missing => bucket.count_read(false),
            BatchOutcome::Written(_)
            | BatchOutcome::ConditionFailed(_)
            | BatchOutcome::TooLarge
            | BatchOutcome::AfterUnknownOutcome
            | BatchOutcome::Failed(_) => {}
        }
    }
}
