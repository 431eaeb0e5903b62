//! Conversions of the errors of other modules, which name every variant.

use cloudkv_common::server::HeadError;

use super::{ApiError, ErrorDetail};
use crate::api::buckets::CreationLimitExceeded;
use crate::api::error_code::ErrorCode;
use crate::service::{DirectoryError, KeyError, ResumeTokenError, Unavailable};

impl From<CreationLimitExceeded> for ApiError {
    fn from(error: CreationLimitExceeded) -> Self {
        let CreationLimitExceeded {
            per_hour,
            retry_after,
        } = error;
        // Rounded up, so that a retry after this time succeeds.
        let seconds = retry_after.as_secs() + 1;
        let message =
            format!("your address may create {per_hour} buckets an hour: try again in {seconds} s");
        Self::new(ErrorCode::TooManyRequests, message).with_detail(ErrorDetail::RetryAfter(seconds))
    }
}

impl From<ResumeTokenError> for ApiError {
    fn from(error: ResumeTokenError) -> Self {
        Self::invalid_resume_token(error)
    }
}

impl From<HeadError> for ApiError {
    fn from(error: HeadError) -> Self {
        let code = match error {
            HeadError::TooManyHeaders => ErrorCode::TooManyHeaders,
            HeadError::MissingHost
            | HeadError::DuplicateHost
            | HeadError::TransferEncoding
            | HeadError::Connection => ErrorCode::InvalidHeader,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Unavailable> for ApiError {
    fn from(error: Unavailable) -> Self {
        match error {
            Unavailable::NoLeader { .. }
            | Unavailable::Overloaded { .. }
            | Unavailable::ClockOff => {
                tracing::debug!(%error, "request failed as unavailable");
                Self::unavailable()
            }
            Unavailable::Behind => Self::behind(),
            Unavailable::Upgrading => Self::upgrading(),
            Unavailable::Stopping => Self::unavailable(),
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unavailable(reason) => reason.into(),
            KeyError::UnknownOutcome => Self::unknown_outcome(),
            KeyError::PreconditionFailed => Self::precondition_failed(),
            KeyError::NoSuchKey => Self::no_such_key(),
            KeyError::TooManyKeys { limit } => Self::plan_limit(format!(
                "the bucket holds the {limit} keys that its plan allows: delete some, or move it \
                 to another plan"
            )),
            KeyError::TooManyBytes { limit } => Self::plan_limit(format!(
                "the bucket's plan allows {limit} bytes of keys and values, and this value does \
                 not fit: delete some keys, or move the bucket to another plan"
            )),
            KeyError::DiskFull(shortage) => Self::disk_full_for_key(shortage),
            KeyError::BucketDeleted => Self::unknown_bucket(),
            KeyError::Damaged(cause) => Self::damaged(&cause),
            KeyError::Storage(cause) => {
                Self::internal("accessing the storage for a key failed", &cause)
            }
        }
    }
}

impl From<DirectoryError> for ApiError {
    fn from(error: DirectoryError) -> Self {
        let message = error.to_string();
        match error {
            DirectoryError::Unavailable(reason) => reason.into(),
            DirectoryError::UnknownOutcome => Self::unknown_outcome(),
            DirectoryError::UnknownBucket => Self::unknown_bucket(),
            DirectoryError::UnknownAccount => Self::unauthorized(),
            DirectoryError::NotOwner => Self::forbidden(),
            DirectoryError::AccessNotInPlan { .. } | DirectoryError::TooManyBuckets { .. } => {
                Self::plan_limit(message + ": choose another plan")
            }
            DirectoryError::ClusterFull { .. } => Self::new(ErrorCode::ClusterFull, message),
            DirectoryError::DiskFull(shortage) => Self::disk_full_for_bucket(shortage),
            DirectoryError::PlanNotSelfService { .. } => {
                Self::new(ErrorCode::PlanNotSelfService, message)
            }
            DirectoryError::ExceedsPlan { .. } => Self::new(ErrorCode::ExceedsPlan, message),
            DirectoryError::ConfirmMismatch { keys } => {
                let message = format!("{message}: pass confirm={keys} to delete it with them");
                Self::new(ErrorCode::ConfirmMismatch, message).with_detail(ErrorDetail::Keys(keys))
            }
            DirectoryError::Storage(cause) => {
                Self::internal("changing the directory failed", &cause)
            }
        }
    }
}
