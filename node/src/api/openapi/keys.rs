//! Operations of one key.

use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{ContentBuilder, HttpMethod};

use super::document::Document;
use super::operation::{ApiKeyUse, OperationDoc, Tag};
use super::parameters::{
    BUCKET, KEY, METADATA, MIN_VERSION, READ_CONDITIONS, WATCH, WATCHED_VALUES, WRITE_CONDITIONS,
};
use super::preflight::preflight;
use super::response_headers::SESSION_TOKEN;
use super::watch::events;
use crate::api::error_code::ErrorCode;
use crate::api::http::expiry;
use crate::api::keys::READ_PARAMETERS;

/// Path of a key.
pub(super) const PATH: &str = "/kv/{bucket}/{key}";

/// Errors of the path of a bucket's keys.
pub(super) const PATH_ERRORS: [ErrorCode; 2] = [ErrorCode::InvalidPath, ErrorCode::NoSuchRoute];

/// Errors of access to a bucket.
pub(super) const ACCESS_ERRORS: [ErrorCode; 2] = [ErrorCode::Unauthorized, ErrorCode::Forbidden];

/// Errors of every operation on keys.
pub(super) const KEY_ERRORS: [ErrorCode; 4] = [
    ErrorCode::InvalidParameter,
    ErrorCode::UnknownBucket,
    ErrorCode::Damaged,
    ErrorCode::Internal,
];

/// Errors of every write.
pub(super) const WRITE_ERRORS: [ErrorCode; 2] = [ErrorCode::DiskFull, ErrorCode::UnknownOutcome];

/// Errors of a write that stores more than the key had.
pub(super) const GROWTH_ERRORS: [ErrorCode; 2] = [ErrorCode::PlanLimit, ErrorCode::AllDisksFull];

/// Headers of a read of a key.
const READ_HEADERS: [&str; 6] = [
    "ETag",
    "Last-Modified",
    "Expires",
    "Cache-Control",
    METADATA,
    SESSION_TOKEN,
];

/// Adds the operations of a key.
pub(super) fn describe(document: &mut Document) {
    document.add(PATH, HttpMethod::Get, get());
    document.add(PATH, HttpMethod::Head, get().renamed("headKey"));
    document.add(PATH, HttpMethod::Put, put());
    document.add(PATH, HttpMethod::Post, put().renamed("postKey"));
    document.add(PATH, HttpMethod::Patch, patch());
    document.add(PATH, HttpMethod::Delete, delete());
    let options = preflight("optionsKey", Tag::Keys, &[BUCKET, KEY]);
    document.add(PATH, HttpMethod::Options, options.errors(&PATH_ERRORS));
}

/// Begins the description of an operation on a key.
fn operation(id: &'static str, summary: &'static str) -> OperationDoc {
    OperationDoc::new(id, Tag::Keys, summary)
        .api_key(ApiKeyUse::Optional)
        .parameters(&[BUCKET, KEY, MIN_VERSION])
        .errors(&PATH_ERRORS)
        .errors(&ACCESS_ERRORS)
        .errors(&KEY_ERRORS)
        .errors(&[ErrorCode::InvalidKey, ErrorCode::PreconditionFailed])
}

fn get() -> OperationDoc {
    let value = ContentBuilder::new().build();
    operation("getKey", "Get a key")
        .description(
            "The answer is the value, of the type with which it was written. Three headers keep a \
             stored page from acting in the service's name when a browser opens it.\n\n\
             With `Accept: text/event-stream` the answer is a stream of the key's changes, also of \
             a key that doesn't exist: see the list of keys. It takes `initial`, `values` and \
             `since`, and no other parameter.",
        )
        .parameters(&READ_PARAMETERS)
        .parameters(&WATCH)
        .parameters(&[WATCHED_VALUES])
        .parameters(&READ_CONDITIONS)
        .response(
            200,
            "The value, or an event stream.",
            &[
                "X-Content-Type-Options",
                "Content-Security-Policy",
                "Cross-Origin-Resource-Policy",
            ]
            .into_iter()
            .chain(READ_HEADERS)
            .collect::<Vec<_>>(),
            [("*/*", value), events()],
        )
        .response(304, "The client has the current value.", &READ_HEADERS, [])
        .errors(&[
            ErrorCode::InvalidResumeToken,
            ErrorCode::NotFound,
            ErrorCode::Behind,
        ])
        .sample("curl -i \"$API/kv/$BUCKET/greeting\"")
        .sample("curl -i \"$API/kv/$BUCKET/greeting\" -H 'If-None-Match: \"18ead8c74e16d6e0-1\"'")
}

fn put() -> OperationDoc {
    let value = RequestBodyBuilder::new()
        .description(Some(
            "The value: any bytes, also none, as many as the bucket's plan allows. Its \
             `Content-Type`, of up to 256 bytes, is stored with it.",
        ))
        .content("*/*", ContentBuilder::new().build())
        .build();
    operation("putKey", "Set a key")
        .description(
            "PUT and POST do the same. Each write replaces value, type, metadata and expiry. \
             Without `ttl`, `expires_at` and `persist` the key gets the bucket's `default_ttl`; \
             without that it doesn't expire.\n\n\
             With a condition, condition and write are one step: of many clients that send the \
             same condition at once, one succeeds. This holds within one region.",
        )
        .parameters(&expiry::PARAMETERS)
        .parameters(&[METADATA])
        .parameters(&WRITE_CONDITIONS)
        .body(value)
        .response(
            200,
            "The value is stored.",
            &["ETag", "Expires", SESSION_TOKEN],
            [],
        )
        .errors(&WRITE_ERRORS)
        .errors(&GROWTH_ERRORS)
        .errors(&[
            ErrorCode::InvalidTtl,
            ErrorCode::InvalidBody,
            ErrorCode::RequestTimeout,
            ErrorCode::ValueTooLarge,
            ErrorCode::Upgrading,
        ])
        .sample(
            "curl -i -X PUT \"$API/kv/$BUCKET/greeting\" -H 'content-type: text/plain' -d 'hello'",
        )
        .sample("curl -i -X PUT \"$API/kv/$BUCKET/session?ttl=1h30m\" --data-binary @FILE")
}

fn patch() -> OperationDoc {
    operation("patchKey", "Change expiry or metadata of a key")
        .description(
            "The value stays. At least one of `ttl`, `expires_at`, `persist` and \
             `X-CloudKV-Metadata` must be given; there is no body. The key gets a new version.",
        )
        .parameters(&expiry::PARAMETERS)
        .parameters(&[METADATA])
        .parameters(&WRITE_CONDITIONS)
        .response(
            200,
            "Expiry or metadata are changed.",
            &["ETag", "Expires", SESSION_TOKEN],
            [],
        )
        .errors(&WRITE_ERRORS)
        .errors(&GROWTH_ERRORS)
        .errors(&[
            ErrorCode::InvalidTtl,
            ErrorCode::InvalidBody,
            ErrorCode::RequestTimeout,
            ErrorCode::NotFound,
            ErrorCode::Upgrading,
        ])
        .sample("curl -i -X PATCH \"$API/kv/$BUCKET/greeting?ttl=7d\"")
        .sample(
            "curl -i -X PATCH \"$API/kv/$BUCKET/greeting\" \
             -H 'X-CloudKV-Metadata: {\"color\":\"red\"}'",
        )
}

fn delete() -> OperationDoc {
    operation("deleteKey", "Delete a key")
        .description("It succeeds also when there is no such key.")
        .parameters(&WRITE_CONDITIONS)
        .response(200, "There is no such key any more.", &[SESSION_TOKEN], [])
        .errors(&WRITE_ERRORS)
        .errors(&[ErrorCode::AllDisksFull])
        .sample("curl -i -X DELETE \"$API/kv/$BUCKET/greeting\"")
}
