//! Schemas of the values that parameters, headers and bodies are made of.
//!
//! A pattern is that of the form which clients should send. Where the API also takes another one
//! (the units of a time to live in any order, say), the description leaves it out.

use serde_json::{Value, json};
use utoipa::openapi::schema::{AnyOfBuilder, SchemaType};
use utoipa::openapi::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

use crate::api::http::ttl::MAX_TTL;
use crate::api::keys::MAX_CONTENT_TYPE_BYTES;
use crate::meta::MAX_KEY_BYTES;
use crate::service::{Access, Plan};

/// Pattern of a time to live; of no more than 43 years, so that no sum is too long.
const TTL_PATTERN: &str = "^(?:[1-9][0-9]{0,8}|\
     (?:[1-9][0-9]{0,3}d)?(?:[1-9][0-9]{0,4}h)?(?:[1-9][0-9]{0,5}m)?(?:[1-9][0-9]{0,7}s)?)$";

/// Pattern of a list of entity tags.
const ETAGS_PATTERN: &str = "^(?:W/)?\"[!#-~]*\"(?:, ?(?:W/)?\"[!#-~]*\")*$";

/// Pattern of a list of entity tags, `*`, or one tag without quotes.
const ETAGS_OR_BARE_PATTERN: &str =
    "^(?:[!#-+\\--~]+|(?:W/)?\"[!#-~]*\"(?:, ?(?:W/)?\"[!#-~]*\")*)$";

/// Pattern of base64 with padding.
const BASE64_PATTERN: &str = "^(?:[A-Za-z0-9+/]{4})*\
     (?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$";

const METADATA_DESCRIPTION: &str = "Metadata of the key: a JSON object, of at most 1024 bytes as \
     it is stored: compact, and in ASCII with `\\u` escapes.";

/// Returns the schema of any text.
pub(super) fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Returns the schema of a text that is one of these.
pub(super) fn one_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> ObjectBuilder {
    text().enum_values(Some(texts.into_iter().map(Value::from)))
}

/// Returns the schema of a whole number, which isn't negative.
pub(super) fn number() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0_u64))
}

/// Returns the schema of `true` and `false`.
pub(super) fn switch() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Boolean)
}

/// Returns the schema of `null`.
pub(super) fn null() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Null)
}

/// Returns a schema of texts that admits `null`, too.
pub(super) fn or_null(schema: ObjectBuilder) -> Object {
    let mut schema = schema.build();
    schema.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    if let Some(values) = &mut schema.enum_values {
        values.push(Value::Null);
    }
    schema
}

/// Returns the schema of a bucket's ID.
pub(super) fn bucket_id() -> ObjectBuilder {
    text()
        .pattern(Some("^a[0-9A-Za-z]{13}$"))
        .examples([json!("aArigQkIoMOGqG")])
}

/// Returns the schema of a key.
pub(super) fn key() -> ObjectBuilder {
    text()
        .min_length(Some(1))
        .max_length(Some(MAX_KEY_BYTES as usize))
        .pattern(Some("^[^\\u0000-\\u001f\\u007f-\\u009f]+$"))
        .examples([json!("users/42.json")])
}

/// Returns the schema of the name of an access mode.
pub(crate) fn access() -> ObjectBuilder {
    one_of([Access::Public, Access::PublicRead, Access::Protected].map(Access::name))
        .description(Some("Access mode."))
}

/// Returns the schema of the name of a plan.
pub(crate) fn plan() -> ObjectBuilder {
    one_of(Plan::ALL.map(Plan::name)).description(Some("Plan."))
}

/// Returns the schema of a bucket's comment.
pub(super) fn comment() -> ObjectBuilder {
    text()
        .max_length(Some(1024))
        .pattern(Some(
            "^[^\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f]*$",
        ))
        .examples([json!("sessions of the shop")])
}

/// Returns the schema of a time to live.
pub(super) fn ttl() -> ObjectBuilder {
    default_ttl().min_length(Some(1))
}

/// Returns the schema of a bucket's default time to live, of which an empty one is none.
pub(super) fn default_ttl() -> ObjectBuilder {
    text()
        .pattern(Some(TTL_PATTERN))
        .examples([json!("1h30m"), json!("90")])
}

/// Returns the schema of a bucket's default time to live in JSON, of which `null` is none, too.
pub(super) fn default_ttl_in_json() -> AnyOfBuilder {
    AnyOfBuilder::new()
        .item(default_ttl())
        .item(ttl_seconds())
        .item(null())
        .description(Some(
            "Time to live of writes that name no expiry; a number is one of seconds. An empty text \
             or `null` removes it.",
        ))
}

/// Returns the schema of a time to live that may be a number of seconds, too.
pub(super) fn requested_ttl() -> AnyOfBuilder {
    AnyOfBuilder::new().item(ttl()).item(ttl_seconds())
}

/// Returns the schema of a time to live as a number of seconds.
pub(super) fn ttl_seconds() -> ObjectBuilder {
    number()
        .minimum(Some(1_u64))
        .maximum(Some(MAX_TTL.as_secs()))
}

/// Returns the schema of a time that a request names.
pub(super) fn requested_time() -> AnyOfBuilder {
    AnyOfBuilder::new()
        .item(time().examples([json!("2030-01-31T12:00:00Z")]))
        .item(number().description(Some("Seconds since 1970.")))
}

/// Returns the schema of a time of RFC 3339.
pub(super) fn time() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

/// Returns the schema of the value of `ETag`.
pub(super) fn etag() -> ObjectBuilder {
    text()
        .pattern(Some("^\"[0-9a-f]+(?:-[0-9]+)?\"$"))
        .examples([json!("\"18ead8c74e16d6e0-1\"")])
}

/// Returns the schema of the value of `If-Match` and `If-None-Match`.
pub(super) fn etags() -> AnyOfBuilder {
    AnyOfBuilder::new()
        .item(one_of(["*"]))
        .item(text().pattern(Some(ETAGS_PATTERN)))
        .examples([json!("\"18ead8c74e16d6e0-1\"")])
}

/// Returns the schema of a condition in a batch, in which a single tag needs no quotes.
pub(super) fn etags_or_bare() -> ObjectBuilder {
    text()
        .pattern(Some(ETAGS_OR_BARE_PATTERN))
        .max_length(Some(1024))
        .examples([json!("18ead8c74e16d6e0-1"), json!("*")])
}

/// Returns the schema of a key's metadata.
pub(super) fn metadata() -> ObjectBuilder {
    ObjectBuilder::new()
        .description(Some(METADATA_DESCRIPTION))
        .examples([json!({"color": "red"})])
}

/// Returns the schema of a key's metadata, of which `null` is none.
pub(crate) fn metadata_or_null() -> ObjectBuilder {
    metadata().schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
}

/// Returns the schema of bytes in base64.
pub(crate) fn base64() -> ObjectBuilder {
    text()
        .pattern(Some(BASE64_PATTERN))
        .content_encoding("base64")
}

/// Returns the schema of a `Content-Type` that is stored with a value.
pub(super) fn content_type() -> ObjectBuilder {
    text()
        .max_length(Some(MAX_CONTENT_TYPE_BYTES))
        .pattern(Some("^[ -~]*$"))
        .examples([json!("text/plain")])
}
