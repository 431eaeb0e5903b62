//! All error responses of the API.
//!
//! The service's errors know no HTTP; here each of them gets its status, its stable code and a
//! sentence that says how to avoid it. The mappings name every variant, so that a new kind of
//! failure doesn't compile until it is decided what clients see. Failures that only an operator can
//! repair are logged here, once, with their cause; clients get no internal detail, and no message
//! repeats a bucket's name or an account's key.

use std::borrow::Cow;
use std::error::Error;

use cloudkv_common::server::{Authoritative, HeadError};
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::api::buckets::CreationLimitExceeded;
use crate::api::http::body::Body;
use crate::api::http::headers::{JSON, X_CLOUDKV_VERSION};
use crate::service::{DirectoryError, DiskShortage, KeyError, Unavailable};

/// `Retry-After` when a disk is nearly full, and that of another node isn't, in seconds.
const DISK_FULL_RETRY_SECONDS: u64 = 5;

/// An error response, as a client gets it.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    detail: ErrorDetail,
    session_token: Option<HeaderValue>,
    authoritative: bool,
}

/// Details of an error beyond its code and message.
#[derive(Debug, PartialEq, Eq)]
enum ErrorDetail {
    None,
    /// Methods of the resource.
    Allow(&'static str),
    /// Number of keys of the bucket.
    Keys(u64),
    /// Seconds until a retry makes sense: absent where only an operator can help.
    RetryAfter(u64),
}

/// JSON body of an error response.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<u64>,
}

impl ApiError {
    /// Creates an error with a stable code and a message.
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            detail: ErrorDetail::None,
            session_token: None,
            authoritative: false,
        }
    }

    /// 400, with the code of what is invalid.
    pub(crate) fn invalid(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 403: the bucket's plan doesn't allow this.
    fn plan_limit(message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "plan_limit", message)
    }

    /// 404: there is nothing to return.
    fn not_found(message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 503: a retry after a second makes sense.
    fn retryable(code: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
            .with_detail(ErrorDetail::RetryAfter(1))
    }

    fn with_detail(mut self, extra: ErrorDetail) -> Self {
        self.detail = extra;
        self
    }

    /// Adds the client's session token, which covers the reason of this error.
    pub(crate) fn with_session_token(mut self, token: HeaderValue) -> Self {
        self.session_token = Some(token);
        self
    }

    /// Marks the error as authoritative: another node would answer the same.
    pub(crate) fn authoritative(mut self) -> Self {
        self.authoritative = true;
        self
    }

    /// Returns the stable code.
    #[cfg(test)]
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// Returns the status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Converts the error into a response.
    pub(crate) fn into_http_response(self) -> Response<Body> {
        let keys = match self.detail {
            ErrorDetail::Keys(keys) => Some(keys),
            ErrorDetail::None | ErrorDetail::Allow(_) | ErrorDetail::RetryAfter(_) => None,
        };
        let body = ErrorBody {
            error: self.code,
            message: &self.message,
            keys,
        };
        let mut response = Response::new(Body::full(serde_json::to_vec(&body).unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        match self.detail {
            ErrorDetail::Allow(methods) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(methods));
            }
            ErrorDetail::RetryAfter(seconds) => {
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            ErrorDetail::None | ErrorDetail::Keys(_) => {}
        }
        if let Some(token) = self.session_token {
            headers.insert(&X_CLOUDKV_VERSION, token);
        }
        if self.authoritative {
            response.extensions_mut().insert(Authoritative);
        }
        response
    }

    /// 400: a parameter has an invalid value; the message names it and says what is valid.
    pub(crate) fn invalid_parameter(message: impl Into<Cow<'static, str>>) -> Self {
        Self::invalid("invalid_parameter", message)
    }

    /// 400: a parameter is given twice.
    pub(crate) fn repeated_parameter(name: &'static str) -> Self {
        Self::invalid_parameter(format!("parameter {name} must be given once"))
    }

    /// 400: a write has an unknown parameter.
    pub(crate) fn unknown_parameter(name: &str, known: &[&'static str]) -> Self {
        let name: String = name.chars().take(64).collect();
        let known = match known {
            [] => "there are none".to_owned(),
            names => format!("there is {}", names.join(", ")),
        };
        Self::invalid_parameter(format!("parameter `{name}` is unknown here: {known}"))
    }

    /// 400: a parameter isn't percent-encoded UTF-8.
    pub(crate) fn parameter_encoding(name: &'static str) -> Self {
        Self::invalid_parameter(format!("parameter {name} must be percent-encoded UTF-8"))
    }

    /// 400: a header has an invalid value; the message names it and says what is valid.
    pub(crate) fn invalid_header(message: impl Into<Cow<'static, str>>) -> Self {
        Self::invalid("invalid_header", message)
    }

    /// 400: a body can't be parsed.
    pub(crate) fn invalid_body(message: impl Into<Cow<'static, str>>) -> Self {
        Self::invalid("invalid_body", message)
    }

    /// 400: a `%` in the path isn't followed by two hexadecimal digits.
    pub(crate) fn invalid_path_escape() -> Self {
        let message = "in a path, % must be followed by two hexadecimal digits (% itself is %25)";
        Self::invalid("invalid_path", message)
    }

    /// 400: a path doesn't decode to UTF-8.
    pub(crate) fn path_not_utf8() -> Self {
        Self::invalid("invalid_path", "a path must decode to UTF-8")
    }

    /// 400: a key is empty or too long.
    pub(crate) fn invalid_key_size(max: usize) -> Self {
        let message = format!("a key must have 1 to {max} bytes of UTF-8 in this bucket");
        Self::invalid("invalid_key", message)
    }

    /// 400: a key contains control characters.
    pub(crate) fn control_character_in_key() -> Self {
        Self::invalid("invalid_key", "a key must not contain control characters")
    }

    /// 401: the request has no API key, or one of no account.
    pub(crate) fn unauthorized() -> Self {
        let message = "this needs the header api-key with the key of the bucket's account";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403: the bucket belongs to another account.
    pub(crate) fn forbidden() -> Self {
        let message = "the bucket belongs to another account than the api-key";
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: the bucket doesn't exist.
    pub(crate) fn unknown_bucket() -> Self {
        let message = "no such bucket: POST /buckets creates one, GET /buckets lists yours";
        Self::new(StatusCode::NOT_FOUND, "unknown_bucket", message)
    }

    /// 404: the key doesn't exist, or has expired.
    pub(crate) fn no_such_key() -> Self {
        Self::not_found("no such key, or it has expired")
    }

    /// 404: a listing has no keys.
    pub(crate) fn no_keys() -> Self {
        Self::not_found("no key matches")
    }

    /// 404: the path names no resource.
    pub(crate) fn no_such_route() -> Self {
        let message = "no such resource: there are /ping, /buckets, /buckets/{bucket}, \
                       /kv/{bucket} and /kv/{bucket}/{key}";
        Self::new(StatusCode::NOT_FOUND, "no_such_route", message)
    }

    /// 405, with the methods of the resource.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("this resource has the methods {allow}");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
        .with_detail(ErrorDetail::Allow(allow))
    }

    /// 408: the body stopped arriving.
    pub(crate) fn body_timeout() -> Self {
        let message = "the request's body stopped arriving";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// 412: the key is not in the state that the request's condition requires.
    pub(crate) fn precondition_failed() -> Self {
        let message = "the key is not in the state that the request's condition asks for";
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            message,
        )
    }

    /// 413: a value exceeds the plan's limit.
    pub(crate) fn value_too_large(limit: usize) -> Self {
        let message = format!("a value must have at most {limit} bytes in this bucket");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "value_too_large", message)
    }

    /// 413: the body of a request about buckets exceeds the limit.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        let message = format!("this request's body must have at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    /// 503: nothing was done, and a retry is safe.
    pub(crate) fn unavailable() -> Self {
        let message = "this can't be served right now and nothing was done: try again";
        Self::retryable("unavailable", message)
    }

    /// 503: the node doesn't serve yet. What it waits for may take long, or need its operators, and is
    /// told to them only.
    pub(crate) fn starting() -> Self {
        let message = "the node does not serve yet and nothing was done: try again, or at another \
                       node (its log and its readiness probe say what it waits for)";
        Self::retryable("starting", message)
    }

    /// 503: a limit of requests, bodies or responses in flight is reached, of this client or of
    /// all.
    pub(crate) fn overloaded() -> Self {
        let message = "too many requests, or too large ones, are under way and nothing was done: \
                       try again";
        Self::retryable("unavailable", message)
    }

    /// 503: a write that the client has seen in another region has not arrived here yet.
    pub(crate) fn behind() -> Self {
        let message = "what x-cloudkv-min-version names has not arrived here yet: try again";
        Self::retryable("behind", message)
    }

    /// 503, or 507 if no node has disk space: the disks are nearly full, and a key was neither
    /// written nor deleted.
    fn disk_full_for_key(shortage: DiskShortage) -> Self {
        let message = match (shortage.refuses_all, shortage.elsewhere) {
            (false, true) => {
                "most nodes that hold this key have nearly full disks, and nothing was done: \
                 reading and deleting work; try again, since a node with space may take over"
            }
            (false, false) => {
                "most nodes that hold this key have nearly full disks, and nothing was done: \
                 reading and deleting work; delete keys or buckets, or ask the operators for more \
                 disk space"
            }
            (true, true) => {
                "the disk of the node that writes this key is full up to its reserve, and nothing \
                 was done: reading works, deleting doesn't; try again, since a node with space may \
                 take over"
            }
            (true, false) => {
                "the disks of the nodes that hold this key are full up to a reserve, and nothing \
                 was done: reading works, but no key can be written or deleted before the \
                 operators have freed disk space by other means, or enlarged the disks"
            }
        };
        Self::disk_full(shortage, message)
    }

    /// 503, or 507 if no node has disk space: the disks are nearly full, and no bucket was created.
    fn disk_full_for_bucket(shortage: DiskShortage) -> Self {
        let message = match (shortage.refuses_all, shortage.elsewhere) {
            (_, true) => {
                "nodes that keep the list of buckets have nearly full disks, and no bucket was \
                 created: try again, since a node with space may take over"
            }
            (false, false) => {
                "nodes that keep the list of buckets have nearly full disks, and no bucket was \
                 created: delete keys or buckets, or ask the operators for more disk space"
            }
            (true, false) => {
                "the disks of the nodes that keep the list of buckets are full up to a reserve: no \
                 bucket can be created before the operators have freed disk space, or enlarged \
                 the disks"
            }
        };
        Self::disk_full(shortage, message)
    }

    fn disk_full(shortage: DiskShortage, message: &'static str) -> Self {
        if shortage.elsewhere {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "disk_full", message)
                .with_detail(ErrorDetail::RetryAfter(DISK_FULL_RETRY_SECONDS))
        } else {
            Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message)
        }
        .authoritative()
    }

    /// 504: the write may or may not have happened.
    pub(crate) fn unknown_outcome() -> Self {
        let message =
            "it is unknown whether this took effect, or still will: read before you retry";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "unknown_outcome", message)
    }

    /// 500: the data is damaged. The operator was notified when the damage was found.
    pub(crate) fn damaged(cause: &(dyn Error + 'static)) -> Self {
        tracing::debug!(error = cause, "request for damaged data failed");
        let message = "what this asks for is damaged on the server's disk, and no other copy of it \
                       could be asked: trying again won't help before its operators have mended it";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", message)
    }

    /// 500: the cause is logged, and needs the operator's attention. `event` is the log message.
    pub(crate) fn internal(event: &'static str, cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = cause, "{event}");
        let message = "the server failed; its operators can find the cause in its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

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
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
            .with_detail(ErrorDetail::RetryAfter(seconds))
    }
}

impl From<HeadError> for ApiError {
    fn from(error: HeadError) -> Self {
        Self::new(error.status(), error.code(), error.to_string())
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
            DirectoryError::ClusterFull { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_full", message)
            }
            DirectoryError::DiskFull(shortage) => Self::disk_full_for_bucket(shortage),
            DirectoryError::PlanNotSelfService { .. } => Self::new(
                StatusCode::PAYMENT_REQUIRED,
                "plan_not_self_service",
                message,
            ),
            DirectoryError::ExceedsPlan { .. } => {
                Self::new(StatusCode::CONFLICT, "exceeds_plan", message)
            }
            DirectoryError::ConfirmMismatch { keys } => {
                let message = format!("{message}: pass confirm={keys} to delete it with them");
                Self::new(StatusCode::CONFLICT, "confirm_mismatch", message)
                    .with_detail(ErrorDetail::Keys(keys))
            }
            DirectoryError::Storage(cause) => {
                Self::internal("changing the directory failed", &cause)
            }
        }
    }
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
