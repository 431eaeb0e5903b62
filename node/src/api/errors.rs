//! All error responses of the API.
//!
//! The service's errors know no HTTP; here each of them gets its status, its stable code and a
//! sentence that says how to avoid it. The mappings name every variant, so that a new kind of
//! failure doesn't compile until it is decided what clients see. Failures that only an operator can
//! repair are logged here, once, with their cause; clients get no internal detail, and no message
//! repeats a bucket's name or an account's key.

mod conversions;

use std::borrow::Cow;
use std::error::Error;

use cloudkv_common::server::Authoritative;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::api::error_code::ErrorCode;
use crate::api::http::body::Body;
use crate::api::http::headers::{JSON, X_CLOUDKV_VERSION};
use crate::service::{DiskShortage, ResumeTokenError};

/// `Retry-After` when a disk is nearly full, and that of another node isn't, in seconds.
const DISK_FULL_RETRY_SECONDS: u64 = 5;

/// `Retry-After` when as many exports or imports run as may, in seconds.
const BULK_RETRY_SECONDS: u64 = 10;

/// An error response, as a client gets it.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: ErrorCode,
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
    fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: ErrorDetail::None,
            session_token: None,
            authoritative: false,
        }
    }

    /// 403: the bucket's plan doesn't allow this.
    fn plan_limit(message: String) -> Self {
        Self::new(ErrorCode::PlanLimit, message)
    }

    /// 404: there is nothing to return.
    fn not_found(message: &'static str) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// 503: a retry after a second makes sense.
    fn retryable(code: ErrorCode, message: &'static str) -> Self {
        Self::new(code, message).with_detail(ErrorDetail::RetryAfter(1))
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
        self.code.text()
    }

    /// Returns the message.
    #[cfg(test)]
    pub(crate) fn into_message(self) -> String {
        self.message.into_owned()
    }

    /// Returns the status.
    pub(crate) fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// Returns whether the same request may succeed later, without an operator.
    pub(crate) fn is_temporary(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    /// Splits the error into status, code and message, for one of several outcomes in a response.
    pub(crate) fn into_parts(self) -> (StatusCode, &'static str, Cow<'static, str>) {
        (self.code.status(), self.code.text(), self.message)
    }

    /// Converts the error into a response.
    pub(crate) fn into_http_response(self) -> Response<Body> {
        let keys = match self.detail {
            ErrorDetail::Keys(keys) => Some(keys),
            ErrorDetail::None | ErrorDetail::Allow(_) | ErrorDetail::RetryAfter(_) => None,
        };
        let body = ErrorBody {
            error: self.code.text(),
            message: &self.message,
            keys,
        };
        let mut response = Response::new(Body::full(serde_json::to_vec(&body).unwrap_or_default()));
        *response.status_mut() = self.code.status();
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
        Self::new(ErrorCode::InvalidParameter, message)
    }

    /// 400: a PATCH of a key that changes nothing.
    pub(crate) fn nothing_to_change() -> Self {
        Self::invalid_parameter(
            "a PATCH of a key takes ttl, expires_at or persist=true, or the header \
             x-cloudkv-metadata",
        )
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

    /// 400: the expiry of a key, or the default of a bucket, is invalid.
    pub(crate) fn invalid_ttl(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidTtl, message)
    }

    /// 400: a cursor is malformed, or of another query.
    pub(crate) fn invalid_cursor(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidCursor, message)
    }

    /// 400: the token with which an event stream goes on is malformed, or of another bucket.
    fn invalid_resume_token(error: ResumeTokenError) -> Self {
        let message = format!("the ID of the last event, or since, {error}");
        Self::new(ErrorCode::InvalidResumeToken, message)
    }

    /// 400: an access mode is unknown, or can't be chosen.
    pub(crate) fn invalid_access(message: &'static str) -> Self {
        Self::new(ErrorCode::InvalidAccess, message)
    }

    /// 400: a plan is unknown.
    pub(crate) fn invalid_plan(message: &'static str) -> Self {
        Self::new(ErrorCode::InvalidPlan, message)
    }

    /// 400: a deletion lacks the number of keys.
    pub(crate) fn confirm_required(message: &'static str) -> Self {
        Self::new(ErrorCode::ConfirmRequired, message)
    }

    /// 400: a header has an invalid value; the message names it and says what is valid.
    pub(crate) fn invalid_header(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidHeader, message)
    }

    /// 400: a body can't be parsed.
    pub(crate) fn invalid_body(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidBody, message)
    }

    /// 400: a batch, or one of its operations, is malformed; the message says which, and what is
    /// right.
    pub(crate) fn invalid_batch(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidBatch, message)
    }

    /// 400: a `%` in the path isn't followed by two hexadecimal digits.
    pub(crate) fn invalid_path_escape() -> Self {
        let message = "in a path, % must be followed by two hexadecimal digits (% itself is %25)";
        Self::new(ErrorCode::InvalidPath, message)
    }

    /// 400: a path doesn't decode to UTF-8.
    pub(crate) fn path_not_utf8() -> Self {
        Self::new(ErrorCode::InvalidPath, "a path must decode to UTF-8")
    }

    /// 400: a key is empty or too long.
    pub(crate) fn invalid_key_size(max: usize) -> Self {
        let message = format!("a key must have 1 to {max} bytes of UTF-8 in this bucket");
        Self::new(ErrorCode::InvalidKey, message)
    }

    /// 400: a key contains control characters.
    pub(crate) fn control_character_in_key() -> Self {
        Self::new(
            ErrorCode::InvalidKey,
            "a key must not contain control characters",
        )
    }

    /// 401: the request has no API key, or one of no account.
    pub(crate) fn unauthorized() -> Self {
        let message = "this needs the header api-key with the key of the bucket's account";
        Self::new(ErrorCode::Unauthorized, message)
    }

    /// 403: the bucket belongs to another account.
    pub(crate) fn forbidden() -> Self {
        let message = "the bucket belongs to another account than the api-key";
        Self::new(ErrorCode::Forbidden, message)
    }

    /// 404: the bucket doesn't exist.
    pub(crate) fn unknown_bucket() -> Self {
        let message = "no such bucket: POST /buckets creates one, GET /buckets lists yours";
        Self::new(ErrorCode::UnknownBucket, message)
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
                       /buckets/{bucket}/export, /buckets/{bucket}/import, /kv/{bucket}, \
                       /kv/{bucket}/{key}, /openapi.json and /docs";
        Self::new(ErrorCode::NoSuchRoute, message)
    }

    /// 405, with the methods of the resource.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("this resource has the methods {allow}");
        Self::new(ErrorCode::MethodNotAllowed, message).with_detail(ErrorDetail::Allow(allow))
    }

    /// 408: the body stopped arriving.
    pub(crate) fn body_timeout() -> Self {
        let message = "the request's body stopped arriving";
        Self::new(ErrorCode::RequestTimeout, message)
    }

    /// 412: the key is not in the state that the request's condition requires.
    pub(crate) fn precondition_failed() -> Self {
        let message = "the key is not in the state that the request's condition asks for";
        Self::new(ErrorCode::PreconditionFailed, message)
    }

    /// 413: a value exceeds the plan's limit.
    pub(crate) fn value_too_large(limit: usize) -> Self {
        let message = format!("a value must have at most {limit} bytes in this bucket");
        Self::new(ErrorCode::ValueTooLarge, message)
    }

    /// 413: the body of a request about buckets exceeds the limit.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        let message = format!("this request's body must have at most {limit} bytes");
        Self::new(ErrorCode::BodyTooLarge, message)
    }

    /// 413: the body of a batch exceeds the limit.
    pub(crate) fn batch_too_large(limit: usize) -> Self {
        let message = format!("a batch must have at most {limit} bytes: split it");
        Self::new(ErrorCode::BatchTooLarge, message)
    }

    /// 413: a batch has too many operations.
    pub(crate) fn too_many_operations(limit: usize) -> Self {
        let message = format!("a batch must have at most {limit} operations: split it");
        Self::new(ErrorCode::BatchTooLarge, message)
    }

    /// 413: the lines with values of a batch's answer exceed the limit.
    pub(crate) fn response_too_large(limit: usize) -> Self {
        let message = format!(
            "the lines with values of this answer may have {limit} bytes together: get this key in \
             another batch"
        );
        Self::new(ErrorCode::ResponseTooLarge, message)
    }

    /// 415: a batch has a `Content-Type` that isn't one of its forms.
    pub(crate) fn unsupported_batch_type() -> Self {
        let message = "send a batch as application/x-ndjson, with an operation as a JSON object on \
                       each line, or as application/json, with an array of them";
        Self::new(ErrorCode::UnsupportedMediaType, message)
    }

    /// 503: nothing was done, and a retry is safe.
    pub(crate) fn unavailable() -> Self {
        let message = "this can't be served right now and nothing was done: try again";
        Self::retryable(ErrorCode::Unavailable, message)
    }

    /// 503: the node doesn't serve yet. What it waits for may take long, or need its operators, and is
    /// told to them only.
    pub(crate) fn starting() -> Self {
        let message = "the node does not serve yet and nothing was done: try again, or at another \
                       node (its log and its readiness probe say what it waits for)";
        Self::retryable(ErrorCode::Starting, message)
    }

    /// 503: a limit of requests, bodies or responses in flight is reached, of this client or of
    /// all.
    pub(crate) fn overloaded() -> Self {
        let message = "too many requests, or too large ones, are under way and nothing was done: \
                       try again";
        Self::retryable(ErrorCode::Unavailable, message)
    }

    /// 503: as many exports run at the node as may.
    pub(crate) fn too_many_exports() -> Self {
        let message = "this node makes as many exports as it may at a time, of this account or of all, and \
                       nothing was done: try again";
        Self::new(ErrorCode::Unavailable, message)
            .with_detail(ErrorDetail::RetryAfter(BULK_RETRY_SECONDS))
    }

    /// 503: as many imports run at the node as may.
    pub(crate) fn too_many_imports() -> Self {
        let message = "this node makes as many imports as it may at a time, of this account or of all, and \
                       nothing was done: try again";
        Self::new(ErrorCode::Unavailable, message)
            .with_detail(ErrorDetail::RetryAfter(BULK_RETRY_SECONDS))
    }

    /// 503: an operation of a batch was not done, since it could take effect before an earlier one.
    pub(crate) fn after_unknown_outcome() -> Self {
        let message = "this was not done, since an earlier operation of the batch on its key has \
                       an unknown outcome: read the key before you send it again";
        Self::new(ErrorCode::Unavailable, message)
    }

    /// 503: a write that the client has seen in another region has not arrived here yet.
    pub(crate) fn behind() -> Self {
        let message = "what x-cloudkv-min-version names has not arrived here yet: try again";
        Self::retryable(ErrorCode::Behind, message)
    }

    /// 503: an upgrade of the cluster has to end first.
    pub(crate) fn upgrading() -> Self {
        let message = "the cluster is being upgraded, and not all of its nodes support this yet; \
                       nothing was done: try again later";
        Self::retryable(ErrorCode::Upgrading, message).authoritative()
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
            Self::new(ErrorCode::DiskFull, message)
                .with_detail(ErrorDetail::RetryAfter(DISK_FULL_RETRY_SECONDS))
        } else {
            Self::new(ErrorCode::AllDisksFull, message)
        }
        .authoritative()
    }

    /// 503: the response is a stream, and the router that forwarded the request can't pass it on.
    pub(crate) fn not_streamed() -> Self {
        let message = "the router that forwards this has to be upgraded first, and nothing was \
                       done: try again later, or at another router";
        Self::retryable(ErrorCode::Upgrading, message).authoritative()
    }

    /// 504: the write may or may not have happened.
    pub(crate) fn unknown_outcome() -> Self {
        let message =
            "it is unknown whether this took effect, or still will: read before you retry";
        Self::new(ErrorCode::UnknownOutcome, message)
    }

    /// 500: the data is damaged. The operator was notified when the damage was found.
    pub(crate) fn damaged(cause: &(dyn Error + 'static)) -> Self {
        tracing::debug!(error = cause, "request for damaged data failed");
        let message = "what this asks for is damaged on the server's disk, and no other copy of it \
                       could be asked: trying again won't help before its operators have mended it";
        Self::new(ErrorCode::Damaged, message)
    }

    /// 500: the cause is logged, and needs the operator's attention. `event` is the log message.
    pub(crate) fn internal(event: &'static str, cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = cause, "{event}");
        let message = "the server failed; its operators can find the cause in its log";
        Self::new(ErrorCode::Internal, message)
    }
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
