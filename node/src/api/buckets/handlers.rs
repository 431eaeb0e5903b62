//! Handlers of `/buckets`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use crate::api::buckets::extract::{Confirm, MaybeOwner, Named, Owner};
use crate::api::buckets::params::Params;
use crate::api::buckets::{Management, Peer};
use crate::api::errors::ApiError;
use crate::api::http::dates;
use crate::api::http::headers::JSON;
use crate::service::{BucketSummary, DirectoryError};

/// Creates a JSON response with the content type that the API documents.
fn json(status: StatusCode, value: impl Serialize) -> Response {
    (status, [(CONTENT_TYPE, JSON)], Json(value)).into_response()
}

#[derive(Serialize)]
struct Created<'a> {
    account_id: &'a str,
    bucket_id: &'a str,
    mode: &'static str,
    plan: &'static str,
}

/// Handles `POST /buckets`.
pub(crate) async fn create(
    State(state): State<Management>,
    MaybeOwner(owner): MaybeOwner,
    Extension(source): Extension<Peer>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let (account, key) = owner.unzip();
    let request = params.into_create(account)?;
    let permit = state.creations.count(source, &headers)?;
    let created = match state.directory.create_bucket(request).await {
        Ok(created) => created,
        Err(error @ DirectoryError::UnknownOutcome) => return Err(error.into()),
        Err(error) => {
            state.creations.give_back(permit);
            return Err(error.into());
        }
    };
    let account_id = created.new_account_key.or(key).unwrap_or_default();
    let response = Created {
        account_id: &account_id,
        bucket_id: created.id.as_str(),
        mode: created.access.name(),
        plan: created.plan.name(),
    };
    Ok(json(StatusCode::CREATED, response))
}

#[derive(Serialize)]
struct Buckets {
    buckets: Vec<Summary>,
}

#[derive(Serialize)]
struct Summary {
    id: String,
    mode: &'static str,
    plan: &'static str,
    created_at: String,
    comment: Option<String>,
    estimated_keys: u64,
    key_get_success: u64,
    key_get_failed: u64,
}

impl From<BucketSummary> for Summary {
    fn from(bucket: BucketSummary) -> Self {
        Self {
            id: bucket.id.as_str().to_owned(),
            mode: bucket.access.name(),
            plan: bucket.plan.name(),
            created_at: dates::rfc3339(bucket.created_at),
            comment: bucket.comment.filter(|text| !text.is_empty()),
            estimated_keys: bucket.estimated_keys,
            key_get_success: bucket.key_get_success,
            key_get_failed: bucket.key_get_failed,
        }
    }
}

/// Handles `GET /buckets`.
pub(crate) async fn list(
    State(state): State<Management>,
    Owner(account): Owner,
) -> Result<Response, ApiError> {
    let buckets = state.directory.list_buckets(account).await?;
    let buckets = buckets.into_iter().map(Summary::from).collect();
    Ok(json(StatusCode::OK, Buckets { buckets }))
}

/// Handles `PATCH /buckets/{bucket}`.
pub(crate) async fn modify(
    State(state): State<Management>,
    Owner(account): Owner,
    Named(bucket): Named,
    params: Params,
) -> Result<HeaderMap, ApiError> {
    state
        .directory
        .modify_bucket(account, bucket, params.into_modify()?)
        .await?;
    Ok(HeaderMap::new())
}

/// Handles `DELETE /buckets/{bucket}?confirm=N`.
pub(crate) async fn delete(
    State(state): State<Management>,
    Owner(account): Owner,
    Named(bucket): Named,
    Confirm(keys): Confirm,
) -> Result<HeaderMap, ApiError> {
    state.directory.delete_bucket(account, bucket, keys).await?;
    Ok(HeaderMap::new())
}
