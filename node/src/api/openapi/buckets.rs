//! Operations of buckets.

use serde_json::json;
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ContentBuilder, HttpMethod, ObjectBuilder, RefOr};

use super::document::Document;
use super::operation::{ApiKeyUse, OperationDoc, Tag, json_content, schema_ref};
use super::parameters::BUCKET;
use super::preflight::preflight;
use super::values;
use crate::api::buckets::{
    BucketList, BucketParams, CONFIRM_PARAMETER, CreatedBucketBody, LIST_PARAMETERS,
};
use crate::api::error_code::ErrorCode;

const COLLECTION_PATH: &str = "/buckets";
const BUCKET_PATH: &str = "/buckets/{bucket}";

/// Errors of every operation on buckets.
pub(super) const BUCKETS_ERRORS: [ErrorCode; 3] = [
    ErrorCode::InvalidParameter,
    ErrorCode::Unauthorized,
    ErrorCode::Internal,
];

/// Errors of every operation on one bucket.
pub(super) const BUCKET_ERRORS: [ErrorCode; 4] = [
    ErrorCode::InvalidPath,
    ErrorCode::Forbidden,
    ErrorCode::UnknownBucket,
    ErrorCode::NoSuchRoute,
];

/// Errors of every change.
const CHANGE_ERRORS: [ErrorCode; 3] = [
    ErrorCode::DiskFull,
    ErrorCode::AllDisksFull,
    ErrorCode::UnknownOutcome,
];

/// Errors of a change with parameters in the query or the body.
const PARAMETER_ERRORS: [ErrorCode; 9] = [
    ErrorCode::InvalidBody,
    ErrorCode::InvalidAccess,
    ErrorCode::InvalidPlan,
    ErrorCode::InvalidTtl,
    ErrorCode::PlanNotSelfService,
    ErrorCode::PlanLimit,
    ErrorCode::RequestTimeout,
    ErrorCode::BodyTooLarge,
    ErrorCode::Upgrading,
];

/// Parameters of a modification: the access mode can't be changed.
const MODIFICATION_PARAMETERS: [&str; 3] = ["plan", "comment", "default_ttl"];

/// Adds the operations of buckets.
pub(super) fn describe(document: &mut Document) {
    document.add_schema::<CreatedBucketBody<'_>>();
    document.add_schema::<BucketList<'_>>();
    document.add(COLLECTION_PATH, HttpMethod::Post, create());
    document.add(COLLECTION_PATH, HttpMethod::Get, list());
    document.add(
        COLLECTION_PATH,
        HttpMethod::Head,
        list().renamed("headBuckets"),
    );
    let options = preflight("optionsBuckets", Tag::Buckets, &[]);
    document.add(COLLECTION_PATH, HttpMethod::Options, options);
    document.add(BUCKET_PATH, HttpMethod::Patch, modify());
    document.add(BUCKET_PATH, HttpMethod::Delete, delete());
    let options = preflight("optionsBucket", Tag::Buckets, &[BUCKET]);
    document.add(
        BUCKET_PATH,
        HttpMethod::Options,
        options.errors(&[ErrorCode::NoSuchRoute]),
    );
}

fn operation(id: &'static str, summary: &'static str) -> OperationDoc {
    OperationDoc::new(id, Tag::Buckets, summary)
        .api_key(ApiKeyUse::Always)
        .errors(&BUCKETS_ERRORS)
}

fn create() -> OperationDoc {
    operation("createBucket", "Create a bucket")
        .api_key(ApiKeyUse::Optional)
        .description(
            "Without `api-key` the call also creates an account. `account_id` is the account's \
             key: keep it. It is the only way to list, change and delete the account's buckets, \
             and CloudKV can't show it again. With `api-key`, the bucket joins that account.\n\n\
             Parameters may come in the query or in the body. One that comes in both must not \
             differ.",
        )
        .parameters(&BucketParams::NAMES)
        .body(parameters_body(&BucketParams::NAMES))
        .response(
            201,
            "The bucket.",
            &[],
            [json_content(
                schema_ref::<CreatedBucketBody<'_>>(),
                json!({
                    "account_id": "0ed3a63a-8801-4f34-ba59-993c28477238",
                    "bucket_id": "aArigQkIoMOGqG",
                    "mode": "public",
                    "plan": "free",
                }),
            )],
        )
        .errors(&CHANGE_ERRORS)
        .errors(&PARAMETER_ERRORS)
        .errors(&[ErrorCode::TooManyRequests, ErrorCode::ClusterFull])
        .sample("curl \"$API/buckets\" -F access=public -F comment='user sessions'")
        .sample(
            "curl \"$API/buckets\" -H \"api-key: $ACCOUNT\" \
             -H 'content-type: application/json' -d '{\"access\":\"protected\",\"plan\":\"pro\"}'",
        )
}

fn list() -> OperationDoc {
    operation("listBuckets", "List buckets")
        .description("Lists the account's buckets, oldest first, in pages.")
        .parameters(&LIST_PARAMETERS)
        .response(
            200,
            "A page of the list.",
            &["Link"],
            [json_content(
                schema_ref::<BucketList<'_>>(),
                json!({
                    "buckets": [{
                        "id": "aArigQkIoMOGqG",
                        "mode": "public",
                        "plan": "free",
                        "created_at": "2026-11-24T02:02:31.835150Z",
                        "comment": "user sessions",
                        "default_ttl": null,
                        "estimated_keys": 5,
                        "key_get_success": 12,
                        "key_get_failed": 1,
                    }],
                    "list_complete": true,
                }),
            )],
        )
        .errors(&[ErrorCode::InvalidCursor])
        .sample("curl \"$API/buckets\" -H \"api-key: $ACCOUNT\"")
}

fn modify() -> OperationDoc {
    operation("modifyBucket", "Modify a bucket")
        .description(
            "What isn't given stays. A bucket that exceeds the new plan keeps the old one. The \
             access mode can't be changed.",
        )
        .parameters(&[BUCKET])
        .parameters(&MODIFICATION_PARAMETERS)
        .body(parameters_body(&MODIFICATION_PARAMETERS))
        .response(200, "The bucket is changed.", &[], [])
        .errors(&CHANGE_ERRORS)
        .errors(&PARAMETER_ERRORS)
        .errors(&BUCKET_ERRORS)
        .errors(&[ErrorCode::ExceedsPlan])
        .sample(
            "curl -i -X PATCH \"$API/buckets/$BUCKET\" -H \"api-key: $ACCOUNT\" \
             -d comment='sessions of the shop'",
        )
}

fn delete() -> OperationDoc {
    operation("deleteBucket", "Delete a bucket")
        .description(
            "Deletes the bucket with all its keys, which can't be undone. So `confirm` must be the \
             number of its keys: the number now, or one that `GET /buckets` showed in the last 20 \
             seconds. 0 confirms only a bucket without a key. Otherwise the answer is 409 with the \
             right number.",
        )
        .parameters(&[BUCKET, CONFIRM_PARAMETER])
        .response(200, "The bucket is deleted.", &[], [])
        .errors(&CHANGE_ERRORS)
        .errors(&BUCKET_ERRORS)
        .errors(&[ErrorCode::ConfirmRequired, ErrorCode::ConfirmMismatch])
        .sample("curl -i -X DELETE \"$API/buckets/$BUCKET?confirm=5\" -H \"api-key: $ACCOUNT\"")
}

/// Returns a body with these parameters, in any of its formats.
fn parameters_body(names: &[&'static str]) -> RequestBody {
    let json = names.iter().fold(ObjectBuilder::new(), |object, name| {
        object.property(*name, json_parameter_schema(name))
    });
    let form = names.iter().fold(ObjectBuilder::new(), |object, name| {
        object.property(*name, parameter_schema(name))
    });
    let content = |schema: ObjectBuilder| {
        ContentBuilder::new()
            .schema(Some(schema))
            .example(Some(json!({"comment": "user sessions", "plan": "pro"})))
            .build()
    };
    let form = content(form);
    RequestBodyBuilder::new()
        .description(Some(
            "Parameters, up to 64 KiB. The format is detected by the content. Unknown ones are \
             ignored.",
        ))
        .content("application/json", content(json))
        .content("application/x-www-form-urlencoded", form.clone())
        .content("multipart/form-data", form)
        .build()
}

/// Returns the schema of a parameter in a JSON body.
fn json_parameter_schema(name: &str) -> RefOr<Schema> {
    match name {
        "default_ttl" => values::default_ttl_in_json().into(),
        _ => values::or_null(parameter_schema(name)).into(),
    }
}

/// Returns the schema of a parameter in a form.
fn parameter_schema(name: &str) -> ObjectBuilder {
    match name {
        "access" => values::access(),
        "plan" => values::plan(),
        "comment" => values::comment(),
        "default_ttl" => values::default_ttl(),
        _ => values::text(),
    }
}
