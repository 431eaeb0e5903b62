//! Every way in which this API says no, in one place.
//!
//! The service's errors know no HTTP; here each of them gets its status, its stable code and a
//! sentence that says what would be right. The mappings name every variant, so that a new kind of
//! failure doesn't compile until somebody decides what clients see. What only an operator can mend
//! is logged here, once, with its cause; clients get no inner detail, and no message repeats a
//! bucket's name or an account's key.

use std::borrow::Cow;
use std::error::Error;

use cloudkv_common::server::{HeadError, Settled};
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::api::buckets::NoRoom;
use crate::api::http::body::Body;
use crate::api::http::headers::{JSON, X_CLOUDKV_VERSION};
use crate::service::{DirectoryError, KeyError, Unavailable};

/// After how many seconds it is worth trying again when a disk is nearly full, and another isn't.
const DISK_FULL_RETRY: u64 = 5;

/// A refusal as a client gets it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    extra: Extra,
    token: Option<HeaderValue>,
    settled: bool,
}

/// What some refusals tell beyond code and sentence.
#[derive(Debug, PartialEq, Eq)]
enum Extra {
    None,
    /// The methods that the resource has.
    Allow(&'static str),
    /// How many keys the bucket holds.
    Keys(u64),
    /// After how many seconds it is worth trying again: not so where only an operator can help.
    Retry(u64),
}

/// The JSON that goes out.
#[derive(Serialize)]
struct Wire<'a> {
    error: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<u64>,
}

impl ApiError {
    /// A refusal with a stable code and a sentence.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            extra: Extra::None,
            token: None,
            settled: false,
        }
    }

    fn with(mut self, extra: Extra) -> Self {
        self.extra = extra;
        self
    }

    /// Adds the token of what the client has seen, this refusal's reason included.
    pub fn with_token(mut self, token: HeaderValue) -> Self {
        self.token = Some(token);
        self
    }

    /// Marks that another node would say the same.
    pub fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    /// The stable name of the refusal.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The status that goes with it.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// A handler's result as an answer.
    pub fn answer(self) -> Response<Body> {
        let keys = match self.extra {
            Extra::Keys(keys) => Some(keys),
            Extra::None | Extra::Allow(_) | Extra::Retry(_) => None,
        };
        let wire = Wire {
            error: self.code,
            message: &self.message,
            keys,
        };
        let mut response = Response::new(Body::full(serde_json::to_vec(&wire).unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        match self.extra {
            Extra::Allow(methods) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(methods));
            }
            Extra::Retry(seconds) => {
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            Extra::None | Extra::Keys(_) => {}
        }
        if let Some(token) = self.token {
            headers.insert(&X_CLOUDKV_VERSION, token);
        }
        if self.settled {
            response.extensions_mut().insert(Settled);
        }
        response
    }

    /// 400: the name of a parameter and what would be right.
    pub fn parameter(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message)
    }

    /// 400: a parameter that comes twice.
    pub fn repeated_parameter(name: &'static str) -> Self {
        Self::parameter(format!("parameter {name} must be given once"))
    }

    /// 400: a parameter of a name that means nothing, where something would be written.
    pub fn unknown_parameter(name: &str, known: &[&'static str]) -> Self {
        let name: String = name.chars().take(64).collect();
        let known = match known {
            [] => "there are none".to_owned(),
            names => format!("there is {}", names.join(", ")),
        };
        Self::parameter(format!("parameter `{name}` is unknown here: {known}"))
    }

    /// 400: a parameter that isn't percent-encoded UTF-8.
    pub fn parameter_encoding(name: &'static str) -> Self {
        Self::parameter(format!("parameter {name} must be percent-encoded UTF-8"))
    }

    /// 400: a header and what would be right.
    pub fn header(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_header", message)
    }

    /// 400: a body that can't be read as what it should be.
    pub fn body(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body", message)
    }

    /// 400: a `%` in the path without two digits.
    pub fn bad_path_escape() -> Self {
        let message = "in a path, % must be followed by two hexadecimal digits (% itself is %25)";
        Self::new(StatusCode::BAD_REQUEST, "invalid_path", message)
    }

    /// 400: a path that decodes to something other than text.
    pub fn path_not_utf8() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_path",
            "a path must decode to UTF-8",
        )
    }

    /// 400: a key that is empty or too long.
    pub fn key_size(max: usize) -> Self {
        let message = format!("a key must have 1 to {max} bytes of UTF-8 in this bucket");
        Self::new(StatusCode::BAD_REQUEST, "invalid_key", message)
    }

    /// 400: a key with control characters.
    pub fn key_control() -> Self {
        let message = "a key must not contain control characters";
        Self::new(StatusCode::BAD_REQUEST, "invalid_key", message)
    }

    /// 401: no key, or one that no account has.
    pub fn unauthorized() -> Self {
        let message = "this needs the header api-key with the key of the bucket's account";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403: somebody else's bucket.
    pub fn forbidden() -> Self {
        let message = "the bucket belongs to another account than the api-key";
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404: no such bucket.
    pub fn unknown_bucket() -> Self {
        let message = "no such bucket: POST /buckets creates one, GET /buckets lists yours";
        Self::new(StatusCode::NOT_FOUND, "unknown_bucket", message)
    }

    /// 404: no such key.
    pub fn no_such_key() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "no such key, or it has expired",
        )
    }

    /// 404: a listing without keys.
    pub fn no_keys() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "no key matches")
    }

    /// 404: a path that means nothing.
    pub fn no_such_route() -> Self {
        let message = "no such resource: there are /ping, /buckets, /buckets/{bucket}, \
                       /kv/{bucket} and /kv/{bucket}/{key}";
        Self::new(StatusCode::NOT_FOUND, "no_such_route", message)
    }

    /// 405, with the methods that there are.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("this resource has the methods {allow}");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            message,
        )
        .with(Extra::Allow(allow))
    }

    /// 408: the body stopped coming.
    pub fn body_timeout() -> Self {
        let message = "the request's body stopped arriving";
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
    }

    /// 412.
    pub fn precondition_failed() -> Self {
        let message = "the key is not in the state that the request's condition asks for";
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            message,
        )
    }

    /// 413: a value beyond the plan's limit.
    pub fn value_too_large(limit: usize) -> Self {
        let message = format!("a value must have at most {limit} bytes in this bucket");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "value_too_large", message)
    }

    /// 413: a form beyond the limit of forms.
    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("this request's body must have at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    /// 503: trying again is safe.
    pub fn unavailable() -> Self {
        let message = "this can't be served right now and nothing was done: try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).with(Extra::Retry(1))
    }

    /// 503: as many requests, bodies or answers wait as may, of this client or of all.
    pub fn overloaded() -> Self {
        let message = "too many requests, or too large ones, are under way and nothing was done: \
                       try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).with(Extra::Retry(1))
    }

    /// 503: what the client has seen elsewhere isn't here yet.
    pub fn behind() -> Self {
        let message = "what x-cloudkv-min-version names has not arrived here yet: try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "behind", message).with(Extra::Retry(1))
    }

    /// 503, or 507 where no node has room: the disks are nearly full.
    pub fn disk_full(elsewhere: bool) -> Self {
        let message = "most nodes that hold this have nearly full disks, and nothing was done: \
                       deleting makes room";
        if elsewhere {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "disk_full", message)
                .with(Extra::Retry(DISK_FULL_RETRY))
        } else {
            Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message)
        }
        .settled()
    }

    /// 504: the write may or may not have happened.
    pub fn unknown_outcome() -> Self {
        let message =
            "it is unknown whether this took effect, or still will: read before you retry";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "unknown_outcome", message)
    }

    /// 500; the operator was told when the damage was found.
    pub fn damaged(cause: &(dyn Error + 'static)) -> Self {
        tracing::debug!(error = cause, "read what is damaged");
        let message = "what this asks for is damaged on the server's disk, and no other copy of it \
                       could be asked: trying again won't help before its operators have mended it";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", message)
    }

    /// 500; the cause goes to the log, where a person must look at it.
    pub fn internal(doing: &'static str, cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = cause, "{doing}");
        let message = "the server failed; its operators can find the cause in its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl From<NoRoom> for ApiError {
    fn from(NoRoom { per_hour, wait }: NoRoom) -> Self {
        // By then, not a moment before.
        let seconds = wait.as_secs() + 1;
        let message =
            format!("your address may create {per_hour} buckets an hour: try again in {seconds} s");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
            .with(Extra::Retry(seconds))
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
                tracing::debug!(%error, "serve a request");
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
            KeyError::TooManyKeys { limit } => Self::new(
                StatusCode::FORBIDDEN,
                "plan_limit",
                format!(
                    "the bucket holds the {limit} keys that its plan allows: delete some, or \
                         move it to another plan"
                ),
            ),
            KeyError::TooManyBytes { limit } => Self::new(
                StatusCode::FORBIDDEN,
                "plan_limit",
                format!(
                    "the bucket's plan allows {limit} bytes of keys and values, and this value \
                         does not fit: delete some keys, or move the bucket to another plan"
                ),
            ),
            KeyError::DiskFull { elsewhere } => Self::disk_full(elsewhere),
            KeyError::BucketGone => Self::unknown_bucket(),
            KeyError::Damaged(cause) => Self::damaged(&cause),
            KeyError::Storage(cause) => Self::internal("access the storage for a key", &cause),
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
                Self::new(
                    StatusCode::FORBIDDEN,
                    "plan_limit",
                    message + ": choose another plan",
                )
            }
            DirectoryError::ClusterFull { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_full", message)
            }
            DirectoryError::DiskFull { elsewhere } => Self::disk_full(elsewhere),
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
                Self::new(StatusCode::CONFLICT, "confirm_mismatch", message).with(Extra::Keys(keys))
            }
            DirectoryError::Storage(cause) => Self::internal("change the directory", &cause),
        }
    }
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
