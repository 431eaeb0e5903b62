//! Error responses of the admin port for changes.

use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::service::{DirectoryError, PlanError};
use cloudkv_common::admin::error_response;

/// Reason for which a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum OperationError {
    /// The plan in the path is unknown.
    #[error("no such plan: there are free, pro and business")]
    UnknownPlan,
    /// The plan in the body is unknown.
    #[error("plan must be free, pro or business")]
    InvalidPlan,
    /// The body is too long, or was aborted.
    #[error("{}", .0.body_text())]
    UnreadableBody(#[from] BytesRejection),
    /// The body isn't valid JSON of the expected form.
    #[error("the body must be a JSON object with {fields}: {source}")]
    InvalidBody {
        /// Expected fields.
        fields: &'static str,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// The plan's limits are invalid, or can't be changed now.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl From<DirectoryError> for OperationError {
    fn from(error: DirectoryError) -> Self {
        Self::Plan(error.into())
    }
}

impl IntoResponse for OperationError {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::UnknownPlan => (StatusCode::NOT_FOUND, "unknown_plan"),
            Self::InvalidPlan => (StatusCode::BAD_REQUEST, "invalid_plan"),
            Self::UnreadableBody(rejection) => (rejection.status(), "invalid_body"),
            Self::InvalidBody { .. } => (StatusCode::BAD_REQUEST, "invalid_body"),
            Self::Plan(PlanError::NoChange | PlanError::OutOfBounds { .. }) => {
                (StatusCode::BAD_REQUEST, "invalid_limit")
            }
            Self::Plan(PlanError::OldNodes(_)) => (StatusCode::CONFLICT, "refused"),
            Self::Plan(PlanError::Directory(error)) => return directory_response(error),
        };
        error_response(status, code, &self.to_string())
    }
}

fn directory_response(error: &DirectoryError) -> Response {
    let message = error.to_string();
    match error {
        DirectoryError::Unavailable(_) => {
            let mut response =
                error_response(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        DirectoryError::UnknownOutcome => {
            error_response(StatusCode::GATEWAY_TIMEOUT, "unknown_outcome", &message)
        }
        DirectoryError::UnknownBucket => error_response(
            StatusCode::NOT_FOUND,
            "unknown_bucket",
            "no such bucket, or it was deleted",
        ),
        DirectoryError::ExceedsPlan { .. } | DirectoryError::AccessNotInPlan { .. } => {
            error_response(StatusCode::CONFLICT, "exceeds_plan", &message)
        }
        DirectoryError::TooManyBuckets { .. } => {
            error_response(StatusCode::CONFLICT, "plan_limit", &message)
        }
        DirectoryError::DiskFull { .. } => {
            error_response(StatusCode::INSUFFICIENT_STORAGE, "disk_full", &message)
        }
        // These errors occur in users' requests only.
        DirectoryError::Storage(_)
        | DirectoryError::UnknownAccount
        | DirectoryError::NotOwner
        | DirectoryError::ClusterFull { .. }
        | DirectoryError::PlanNotSelfService { .. }
        | DirectoryError::ConfirmMismatch { .. } => {
            tracing::error!(?error, "operator's change failed unexpectedly");
            error_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the node's log says why",
            )
        }
    }
}
