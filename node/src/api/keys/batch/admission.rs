//! Access and limits of the operations of a batch.
//!
//! Access is judged per operation: in a `public-read` bucket a client without the account's key
//! reads, and its writes are refused in their lines. It is looked up once for reads, and once for
//! writes.

use std::sync::Arc;

use http::StatusCode;

use super::operation::{Action, Operation};
use super::respond::LineError;
use crate::api::access::{AccessIntent, BucketAccess};
use crate::api::errors::ApiError;
use crate::api::http::{expiry, path};
use crate::api::keys::request_head::KeyRequestHead;
use crate::service::{BatchOperation, Bucket, Directory, KeyWrite, Put};

/// Access that a request has, or why it has none.
type IntentAccess = Result<BucketAccess, LineError>;

/// Access of a batch's operations, as far as they need it.
pub(super) struct Admission {
    read: Option<IntentAccess>,
    write: Option<IntentAccess>,
}

impl Admission {
    /// Looks up the access that operations need. Fails if it can't be judged.
    pub(super) async fn judge(
        directory: &Directory,
        head: &KeyRequestHead<'_>,
        operations: &[Operation],
    ) -> Result<Self, ApiError> {
        let needs = |intent| {
            let mut needed = operations.iter().map(intent_of);
            needed.any(|needed| needed == intent)
        };
        let (mut read, mut write) = (None, None);
        if needs(AccessIntent::Read) {
            read = Some(judge_intent(directory, head, AccessIntent::Read).await?);
        }
        if needs(AccessIntent::Write) {
            write = Some(judge_intent(directory, head, AccessIntent::Write).await?);
        }
        Ok(Self { read, write })
    }

    /// Returns the bucket, if any operation may be executed.
    pub(super) fn bucket(&self) -> Option<&Arc<Bucket>> {
        let granted = [&self.read, &self.write].into_iter().flatten();
        let mut granted = granted.filter_map(|access| access.as_ref().ok());
        granted.next().map(BucketAccess::bucket)
    }

    /// Checks access and limits of an operation.
    pub(super) fn admit(&self, operation: Operation) -> Result<BatchOperation, LineError> {
        let access = match intent_of(&operation) {
            AccessIntent::Read => &self.read,
            AccessIntent::Write => &self.write,
        };
        let bucket = match access {
            Some(Ok(access)) => access.bucket(),
            Some(Err(refused)) => return Err(refused.clone()),
            None => return Err(ApiError::unauthorized().into()),
        };
        let Operation { key, action } = operation;
        path::check_key(&key, bucket.limits.key_bytes)?;
        Ok(match action {
            Action::Get(precondition) => BatchOperation::Get { key, precondition },
            Action::Put(put) => {
                let limit = bucket.limits.value_bytes;
                if put.value.len() > limit {
                    return Err(ApiError::value_too_large(limit).into());
                }
                let put = Put {
                    value: put.value,
                    content_type: put.content_type,
                    metadata: put.metadata,
                    expiry: put.expiry.unwrap_or_else(|| expiry::default_of(bucket)),
                    precondition: put.precondition,
                };
                let write = KeyWrite::Put(put);
                BatchOperation::Write { key, write }
            }
            Action::Touch(touch) => {
                let write = KeyWrite::Touch(touch);
                BatchOperation::Write { key, write }
            }
            Action::Delete(precondition) => {
                let write = KeyWrite::Delete(precondition);
                BatchOperation::Write { key, write }
            }
        })
    }
}

fn intent_of(operation: &Operation) -> AccessIntent {
    match operation.action {
        Action::Get(_) => AccessIntent::Read,
        Action::Put(_) | Action::Delete(_) | Action::Touch(_) => AccessIntent::Write,
    }
}

async fn judge_intent(
    directory: &Directory,
    head: &KeyRequestHead<'_>,
    intent: AccessIntent,
) -> Result<IntentAccess, ApiError> {
    let access = BucketAccess::authorize(directory, head.bucket, intent, &head.headers).await;
    match access {
        Ok(access) => Ok(Ok(access)),
        Err(error) => match error.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(Err(error.into())),
            _ => Err(error),
        },
    }
}
