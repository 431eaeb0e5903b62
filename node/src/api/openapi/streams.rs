//! Exports and imports of a bucket.

use serde_json::json;
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::openapi::{Content, ContentBuilder, HttpMethod, RefOr};

use super::buckets::{BUCKET_ERRORS, BUCKETS_ERRORS};
use super::document::Document;
use super::operation::{ApiKeyUse, OperationDoc, Tag, schema_ref, text_content};
use super::parameters::BUCKET;
use super::preflight::preflight;
use crate::api::buckets::{
    EXPORT_PARAMETERS, ExportEndLine, ExportErrorLine, ExportLine, IMPORT_PARAMETERS,
    ImportEndLine, ImportProgressLine,
};
use crate::api::error_code::ErrorCode;

const EXPORT_PATH: &str = "/buckets/{bucket}/export";
const IMPORT_PATH: &str = "/buckets/{bucket}/import";
const NDJSON: &str = "application/x-ndjson";

/// Adds the operations.
pub(super) fn describe(document: &mut Document) {
    document.add_schema::<ExportLine<'_>>();
    document.add_schema::<ExportEndLine>();
    document.add_schema::<ExportErrorLine<'_>>();
    document.add_schema::<ImportProgressLine>();
    document.add_schema::<ImportEndLine<'_>>();
    document.add(EXPORT_PATH, HttpMethod::Get, export());
    document.add(
        EXPORT_PATH,
        HttpMethod::Head,
        export().renamed("headExport"),
    );
    document.add(IMPORT_PATH, HttpMethod::Post, import());
    for (path, id) in [
        (EXPORT_PATH, "optionsExport"),
        (IMPORT_PATH, "optionsImport"),
    ] {
        let options = preflight(id, Tag::Buckets, &[BUCKET]);
        document.add(
            path,
            HttpMethod::Options,
            options.errors(&[ErrorCode::NoSuchRoute]),
        );
    }
}

fn operation(id: &'static str, summary: &'static str) -> OperationDoc {
    OperationDoc::new(id, Tag::Buckets, summary)
        .api_key(ApiKeyUse::Always)
        .parameters(&[BUCKET])
        .errors(&BUCKETS_ERRORS)
        .errors(&BUCKET_ERRORS)
        .errors(&[ErrorCode::Damaged, ErrorCode::Upgrading])
}

fn export() -> OperationDoc {
    let example = "{\"key\":\"fruit/apple\",\"value\":\"green\",\"content_type\":\"text/plain\",\
                   \"expires_at\":null,\"version\":\"18ead8c75626a60c-1\"}\n\
                   {\"end\":true,\"keys\":1,\"bytes\":118,\"since\":\"AXUQMycBIh0bqKtqzDMqKys\"}\n";
    let line = AnyOfBuilder::new()
        .item(schema_ref::<ExportLine<'_>>())
        .item(schema_ref::<ExportEndLine>())
        .item(schema_ref::<ExportErrorLine<'_>>());
    operation("exportBucket", "Export a bucket")
        .description(
            "A line for each key, in the form of a batch's put, and a last line with `end`: without \
             it the export isn't whole. Each shard is read in one view. A watch from `since` misses \
             nothing of what was written meanwhile; `since` is absent if the server doesn't \
             remember all of that any more.",
        )
        .parameters(&EXPORT_PARAMETERS)
        .response(
            200,
            "Lines of JSON: keys, and the end or an error.",
            &[
                "Cache-Control",
                "Content-Disposition",
                "X-Content-Type-Options",
            ],
            [(NDJSON, lines(line, example))],
        )
        .sample(
            "curl \"$API/buckets/$BUCKET/export\" -H \"api-key: $ACCOUNT\" > export.ndjson",
        )
}

fn import() -> OperationDoc {
    let example = "{\"lines\":5120,\"imported\":5120,\"skipped\":0,\"failed\":0}\n\
                   {\"end\":true,\"imported\":9999,\"skipped\":0,\"failed\":1,\"errors\":[{\"line\":7,\
                   \"error\":\"invalid_batch\",\"message\":\"a sentence that says what is wrong\"}]}\n";
    let line = AnyOfBuilder::new()
        .item(schema_ref::<ImportProgressLine>())
        .item(schema_ref::<ImportEndLine<'_>>());
    operation("importBucket", "Import keys")
        .description(
            "Takes any number of lines: those of an export, the puts of a batch, or those of \
             Workers KV's bulk format. With `mode=newer` a line may also be a batch's delete with \
             a `version`, at or above which the key stays. A line that is wrong fails, and the \
             import goes on. The answer begins before the body has ended: it has lines with the \
             counts so far, at most one a second, and a last line with `end`.\n\n\
             If the connection breaks, the keys of the lines that were done stay. The same import \
             again completes it.",
        )
        .parameters(&IMPORT_PARAMETERS)
        .body(import_body())
        .response(
            200,
            "Lines of JSON: the progress, and the end.",
            &["Cache-Control", "X-Content-Type-Options"],
            [(NDJSON, lines(line, example))],
        )
        .errors(&[ErrorCode::InvalidBody, ErrorCode::RequestTimeout])
        .sample(
            "curl \"$API/buckets/$BUCKET/import?mode=skip\" -H \"api-key: $ACCOUNT\" \
             --data-binary @export.ndjson",
        )
}

fn import_body() -> RequestBody {
    let example = "{\"key\":\"a\",\"value\":\"1\",\"ttl\":\"1h\"}\n\
                   {\"key\":\"b\",\"value_base64\":\"AAE=\"}\n";
    let (media_type, content) = text_content(NDJSON, example);
    RequestBodyBuilder::new()
        .description(Some(
            "A JSON object on each line, of at most 8 MiB, whatever the `Content-Type` is.",
        ))
        .content(media_type, content)
        .build()
}

/// Returns content of lines of JSON, each of a schema.
fn lines(line: impl Into<RefOr<Schema>>, example: &str) -> Content {
    ContentBuilder::new()
        .schema(Some(line))
        .example(Some(json!(example)))
        .build()
}
