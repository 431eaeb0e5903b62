//! Handlers of `/buckets`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::buckets::creation_limiter::RequestSource;
use crate::api::buckets::extract::{BucketName, ConfirmedKeyCount, OptionalOwner, Owner};
use crate::api::buckets::params::BucketParams;
use crate::api::buckets::state::BucketsState;
use crate::api::errors::ApiError;
use crate::api::http::headers::JSON;
use crate::api::openapi::values;
use crate::service::DirectoryError;

/// Creates a JSON response with the content type that the API documents.
pub(super) fn json_response(status: StatusCode, value: impl Serialize) -> Response {
    (status, [(CONTENT_TYPE, JSON)], Json(value)).into_response()
}

/// Answer to the creation of a bucket.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedBucket)]
pub(crate) struct CreatedBucketBody<'a> {
    /// Key of the bucket's account: keep it.
    account_id: &'a str,
    /// ID of the bucket.
    bucket_id: &'a str,
    #[schema(schema_with = values::access)]
    mode: &'static str,
    #[schema(schema_with = values::plan)]
    plan: &'static str,
}

/// Handles `POST /buckets`.
pub(crate) async fn create(
    State(state): State<BucketsState>,
    OptionalOwner(owner): OptionalOwner,
    Extension(source): Extension<RequestSource>,
    headers: HeaderMap,
    params: BucketParams,
) -> Result<Response, ApiError> {
    let (account, key) = owner.unzip();
    let request = params.into_create(account)?;
    let permit = state.creation_limiter.try_acquire(source, &headers)?;
    let created = match state.directory.create_bucket(request).await {
        Ok(created) => created,
        Err(error @ DirectoryError::UnknownOutcome) => return Err(error.into()),
        Err(error) => {
            state.creation_limiter.release(permit);
            return Err(error.into());
        }
    };
    let account_id = created.new_account_key.or(key).unwrap_or_default();
    let response = CreatedBucketBody {
        account_id: &account_id,
        bucket_id: created.id.as_str(),
        mode: created.access.name(),
        plan: created.plan.name(),
    };
    Ok(json_response(StatusCode::CREATED, response))
}

/// Handles `PATCH /buckets/{bucket}`.
pub(crate) async fn modify(
    State(state): State<BucketsState>,
    Owner(account): Owner,
    BucketName(bucket): BucketName,
    params: BucketParams,
) -> Result<HeaderMap, ApiError> {
    state
        .directory
        .modify_bucket(account, bucket, params.into_modify()?)
        .await?;
    Ok(HeaderMap::new())
}

/// Handles `DELETE /buckets/{bucket}?confirm=N`.
pub(crate) async fn delete(
    State(state): State<BucketsState>,
    Owner(account): Owner,
    BucketName(bucket): BucketName,
    ConfirmedKeyCount(keys): ConfirmedKeyCount,
) -> Result<HeaderMap, ApiError> {
    state.directory.delete_bucket(account, bucket, keys).await?;
    Ok(HeaderMap::new())
}
