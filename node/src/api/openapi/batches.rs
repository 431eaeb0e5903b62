//! Batches of operations on keys.

use serde_json::json;
use utoipa::ToSchema as _;
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AdditionalProperties, AnyOfBuilder, Schema};
use utoipa::openapi::{
    ArrayBuilder, Content, ContentBuilder, HttpMethod, ObjectBuilder, Ref, RefOr, Required,
};

use super::document::Document;
use super::keys::{ACCESS_ERRORS, KEY_ERRORS, PATH_ERRORS, WRITE_ERRORS};
use super::lists::PATH;
use super::operation::{ApiKeyUse, OperationDoc, Tag, schema_ref};
use super::parameters::{BUCKET, MIN_VERSION};
use super::response_headers::SESSION_TOKEN;
use super::values;
use crate::api::error_code::ErrorCode;
use crate::api::keys::{AnswerLine, BatchField as Field, BatchOperationKind as Kind};

/// Name of the schema of an operation.
const OPERATION_SCHEMA: &str = "BatchOperation";

/// Adds the operation.
pub(super) fn describe(document: &mut Document) {
    document.add_schema::<AnswerLine<'_>>();
    let codes = operation_errors().into_iter().map(ErrorCode::text);
    let codes = values::one_of(codes).description(Some("Stable code of the error."));
    document.set_property(&AnswerLine::name(), "error", codes);
    document.add_named_schema(OPERATION_SCHEMA, operation_schema());
    document.add(PATH, HttpMethod::Post, batch());
}

fn batch() -> OperationDoc {
    let answer = "{\"key\":\"a\",\"status\":200,\"version\":\"18ead8c75626a60c-1\"}\n\
                  {\"key\":\"b\",\"status\":404,\"error\":\"not_found\",\
                  \"message\":\"no such key, or it has expired\"}\n";
    OperationDoc::new("batch", Tag::ListsAndBatches, "Execute a batch")
        .description(
            "A batch isn't atomic: each operation has a fate of its own, and the answer has a line \
             for each, in their order, with its status and the code of its error. The whole is \
             200; a malformed operation refuses the batch before anything is done.\n\n\
             Operations on one key are executed in their order, others at the same time. Access \
             is judged per operation. A batch has at most 1000 operations and 8 MiB, unless the \
             operator changed that.\n\n\
             An operation without `op` is a put. Lines of the bulk format of Workers KV are \
             understood, too: `base64`, `expiration`, `expiration_ttl`.",
        )
        .api_key(ApiKeyUse::Optional)
        .parameters(&[BUCKET, MIN_VERSION])
        .body(operations())
        .response(
            200,
            "A line for each operation. An array is answered by an array.",
            &["X-Content-Type-Options", SESSION_TOKEN],
            [
                ("application/x-ndjson", lines(answer)),
                (
                    "application/json",
                    array(
                        schema_ref::<AnswerLine<'_>>(),
                        json!([{"key": "a", "status": 200}]),
                    ),
                ),
            ],
        )
        .errors(&PATH_ERRORS)
        .errors(&KEY_ERRORS)
        .errors(&[
            ErrorCode::InvalidBody,
            ErrorCode::InvalidBatch,
            ErrorCode::RequestTimeout,
            ErrorCode::BatchTooLarge,
            ErrorCode::UnsupportedMediaType,
            ErrorCode::Upgrading,
            ErrorCode::UnknownOutcome,
        ])
        .sample(
            "curl \"$API/kv/$BUCKET\" -H 'content-type: application/x-ndjson' \
             --data-binary @- <<'END'\n\
             {\"key\":\"a\",\"value\":\"1\",\"ttl\":\"1h\"}\n\
             {\"op\":\"get\",\"key\":\"b\"}\n\
             END",
        )
}

/// Returns the codes of errors that lines can have.
fn operation_errors() -> Vec<ErrorCode> {
    let mut codes = vec![
        ErrorCode::InvalidKey,
        ErrorCode::NotFound,
        ErrorCode::UnknownBucket,
        ErrorCode::PreconditionFailed,
        ErrorCode::ValueTooLarge,
        ErrorCode::ResponseTooLarge,
        ErrorCode::Damaged,
        ErrorCode::Internal,
        ErrorCode::Unavailable,
        ErrorCode::Behind,
        ErrorCode::Upgrading,
    ];
    codes.extend(ACCESS_ERRORS);
    codes.extend(WRITE_ERRORS);
    // The text of `AllDisksFull` is that of `DiskFull`.
    codes.push(ErrorCode::PlanLimit);
    codes
}

fn operations() -> RequestBody {
    let example =
        "{\"key\":\"a\",\"value\":\"1\",\"ttl\":\"1h\"}\n{\"op\":\"get\",\"key\":\"b\"}\n";
    let operation = Ref::from_schema_name(OPERATION_SCHEMA);
    RequestBodyBuilder::new()
        .description(Some(
            "The operations: a JSON object on each line, or an array of them.",
        ))
        .required(Some(Required::True))
        .content("application/x-ndjson", lines(example))
        .content(
            "application/json",
            array(operation, json!([{"key": "a", "value": "1"}])),
        )
        .build()
}

/// Returns content of lines of JSON.
fn lines(example: &str) -> Content {
    ContentBuilder::new()
        .schema(Some(values::text()))
        .example(Some(json!(example)))
        .build()
}

/// Returns content of an array.
fn array(item: Ref, example: serde_json::Value) -> Content {
    ContentBuilder::new()
        .schema(Some(ArrayBuilder::new().items(item).min_items(Some(1))))
        .example(Some(example))
        .build()
}

/// Returns the schema of an operation: one for each kind, with the fields that it has.
fn operation_schema() -> AnyOfBuilder {
    let kinds = Kind::ALL.into_iter().map(kind_schema);
    kinds
        .fold(AnyOfBuilder::new(), AnyOfBuilder::item)
        .description(Some("Operation of a batch."))
}

fn kind_schema(kind: Kind) -> ObjectBuilder {
    let fields = Field::ALL
        .into_iter()
        .filter(|field| kind.has_field(*field));
    let object = fields.fold(ObjectBuilder::new(), |object, field| {
        object.property(field.name(), field_schema(kind, field))
    });
    let object = object
        .title(Some(kind.name()))
        .required(Field::Key.name())
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    match kind {
        // The default.
        Kind::Put => object,
        Kind::Get | Kind::Delete | Kind::Touch => object.required(Field::Op.name()),
    }
}

fn field_schema(kind: Kind, field: Field) -> RefOr<Schema> {
    let described = |schema: ObjectBuilder, text: &str| -> RefOr<Schema> {
        schema.description(Some(text)).into()
    };
    match field {
        Field::Op => described(values::one_of([kind.name()]), "Kind of the operation."),
        Field::Key => described(values::text(), "The key."),
        Field::Value => described(values::text(), "The value. Excludes `value_base64`."),
        Field::ValueBase64 => described(
            values::base64(),
            "The value in base64 (RFC 4648, with padding). Excludes `value`.",
        ),
        Field::Base64 => described(values::switch(), "True if `value` is base64."),
        Field::ContentType => described(
            values::content_type(),
            "Type that is stored with the value.",
        ),
        Field::Metadata => values::metadata_or_null().into(),
        Field::Ttl => values::requested_ttl()
            .description(Some("Time to live, as in the query."))
            .into(),
        Field::ExpiresAt => values::requested_time()
            .item(values::null())
            .description(Some(
                "Time of the expiry: of RFC 3339, or seconds since 1970. `null`: never.",
            ))
            .into(),
        Field::Persist => described(values::switch(), "True: the key doesn't expire."),
        Field::Expiration => described(values::number(), "`expires_at` in Workers KV: seconds."),
        Field::ExpirationTtl => described(
            values::ttl_seconds(),
            "`ttl` in Workers KV: a number of seconds.",
        ),
        Field::IfMatch => described(
            values::etags_or_bare(),
            "Condition as in the header `If-Match`; a single ETag needs no quotes.",
        ),
        Field::IfNoneMatch => described(
            values::etags_or_bare(),
            "Condition as in the header `If-None-Match`; a single ETag needs no quotes.",
        ),
    }
}
