//! Parameters of operations: in the path, in the query, and headers.
//!
//! Each is a component of the document, by which operations refer to it: under its own name unless
//! another one has that, too.

use serde_json::json;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{ContentBuilder, RefOr, Required};

use super::values;
use crate::api::buckets::ImportMode;
use crate::api::keys::{MAX_LIST_PARAMETER_BYTES, MAX_LISTED_ENTRIES};

/// Bucket in a path.
pub(super) const BUCKET: &str = "bucket";
/// Key in a path.
pub(super) const KEY: &str = "key";
/// Header of a request's ID.
pub(super) const REQUEST_ID: &str = "X-Request-ID";
/// Header of a session token.
pub(super) const MIN_VERSION: &str = "X-CloudKV-Min-Version";
/// Header of a key's metadata.
pub(super) const METADATA: &str = "X-CloudKV-Metadata";
/// Headers of the condition of a write.
pub(super) const WRITE_CONDITIONS: [&str; 2] = ["If-Match", "If-None-Match"];
/// Headers of the conditions of a read.
pub(super) const READ_CONDITIONS: [&str; 4] = [
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
];
/// Parameters of a watch that lists don't have.
pub(super) const WATCH: [&str; 3] = ["initial", "since", "Last-Event-ID"];
/// Component of `values` of a watch of a key.
pub(super) const WATCHED_VALUES: &str = "values-of-watch";
/// Component of the condition of a read of the API's description.
pub(super) const DESCRIPTION_CONDITION: &str = "If-None-Match-of-description";
/// Headers of a CORS preflight.
pub(super) const PREFLIGHT: [&str; 3] = [
    "Origin",
    "Access-Control-Request-Method",
    "Access-Control-Request-Headers",
];

/// Returns all parameters, each with the name of its component.
pub(super) fn all() -> Vec<(String, Parameter)> {
    let mut all = path_parameters();
    all.extend(expiry_parameters());
    all.extend(list_parameters());
    all.extend(watch_parameters());
    all.extend(bucket_parameters());
    all.extend(conditions());
    all.extend(other_headers());
    let named = all.into_iter().map(|one| (one.name.clone(), one));
    named
        .chain([description_condition(), watched_values()])
        .collect()
}

/// Returns `values` of a watch of a key. A plain GET ignores it, whatever it is.
fn watched_values() -> (String, Parameter) {
    let values = query(
        "values",
        "Of an event stream. `true`: `put` has the value, too.",
        values::text().into(),
    );
    (WATCHED_VALUES.to_owned(), values)
}

fn description_condition() -> (String, Parameter) {
    let condition = header(
        "If-None-Match",
        "`ETag` of what the client has: if that is current, the answer is 304.",
        values::text().into(),
    );
    (DESCRIPTION_CONDITION.to_owned(), condition)
}

fn path_parameters() -> Vec<Parameter> {
    let in_path = |name, description, schema| {
        parameter(ParameterIn::Path, name, description, schema)
            .required(Required::True)
            .build()
    };
    vec![
        in_path(BUCKET, "ID of the bucket.", values::bucket_id().into()),
        in_path(
            KEY,
            "The key: the whole rest of the path, percent-decoded once. UTF-8 without control \
             characters, of 1 to 64 bytes unless the operator changed that. It may contain `/`, \
             which `%2F` is the same as; `//` and `..` mean nothing special. `?`, `#` and `%` must \
             be encoded.",
            values::key().into(),
        ),
    ]
}

fn expiry_parameters() -> Vec<Parameter> {
    vec![
        query(
            "ttl",
            "Time to live: whole seconds (`90`), or numbers with the units `d`, `h`, `m` and `s`, \
             as in `5s`, `10m`, `1h30m`, `7d`; at most 100 years. Excludes `expires_at` and \
             `persist`.",
            values::ttl().into(),
        ),
        query(
            "expires_at",
            "Time of the expiry, of RFC 3339 or in seconds since 1970. It must be in the future, \
             and at most 100 years away. Excludes `ttl` and `persist`.",
            values::requested_time().into(),
        ),
        query(
            "persist",
            "`true`: the key doesn't expire. Excludes `ttl` and `expires_at`.",
            values::one_of(["true"]).into(),
        ),
        query(
            "consistency",
            "`eventual`: the node that is asked answers from its own replica, which may be a \
             little old.",
            values::one_of(["strong", "eventual"])
                .default(Some(json!("strong")))
                .into(),
        ),
    ]
}

fn list_parameters() -> Vec<Parameter> {
    let text = |name, description| {
        let schema = values::text().max_length(Some(MAX_LIST_PARAMETER_BYTES));
        query(name, description, schema.into())
    };
    let switch = |name, description| query(name, description, values::switch().into());
    vec![
        text(
            "prefix",
            "Only the keys that begin with this. It has at most 1024 bytes, as `after`, `start`, \
             `end` and `delimiter` of a list have.",
        ),
        query(
            "limit",
            "Maximum number of entries of the answer.",
            values::number()
                .minimum(Some(1_u64))
                .maximum(Some(MAX_LISTED_ENTRIES))
                .default(Some(json!(MAX_LISTED_ENTRIES)))
                .into(),
        ),
        text(
            "after",
            "Lists what comes behind this in the order of the list: a key, which need not exist, \
             or a common prefix. In ascending order, a common prefix with which it begins comes \
             before it, and isn't listed.",
        ),
        query(
            "cursor",
            "`cursor` of the previous page of the same query: goes on behind that page.",
            values::text().into(),
        ),
        text("start", "First key of the range, inclusive."),
        text("end", "End of the range, exclusive."),
        text(
            "delimiter",
            "Lists the parts of keys up to the first delimiter behind `prefix`, once each, instead \
             of the keys themselves.",
        ),
        switch("reverse", "`true`: lists in descending order."),
        switch(
            "values",
            "`true`: the values, too. In a list, in JSON only.",
        ),
    ]
}

/// Parameters that count for an event stream. A plain GET ignores them, whatever they are.
fn watch_parameters() -> Vec<Parameter> {
    vec![
        query(
            "initial",
            "Of an event stream. `true`: what there is comes first, as `put`, before `ready`.",
            values::text().into(),
        ),
        query(
            "since",
            "Of an event stream. Goes on behind this: the ID of an event, or `since` of an export.",
            values::text().into(),
        ),
        header(
            "Last-Event-ID",
            "ID of the last event of an event stream, which goes on behind it. Browsers send it by \
             themselves. It wins over `since`.",
            values::text().into(),
        ),
    ]
}

fn bucket_parameters() -> Vec<Parameter> {
    vec![
        query(
            "access",
            "Access mode. `read-public` means `public-read`.",
            values::access().into(),
        ),
        query(
            "plan",
            "Plan. Without it a new bucket gets the lowest one that offers its access mode.",
            values::plan().into(),
        ),
        query(
            "comment",
            "Comment of up to 1024 bytes. An empty one removes it.",
            values::comment().into(),
        ),
        query(
            "default_ttl",
            "Time to live of writes that name no expiry. An empty one removes it.",
            values::default_ttl().into(),
        ),
        parameter(
            ParameterIn::Query,
            "confirm",
            "Number of keys of the bucket.",
            values::number().maximum(Some(u64::MAX)).into(),
        )
        .required(Required::True)
        .build(),
        query(
            "mode",
            "What becomes of keys that exist: they are overwritten, or stay, or stay unless the \
             line's `version` is newer than theirs. Only the last one allows lines that delete.",
            values::one_of(ImportMode::ALL.map(ImportMode::name))
                .default(Some(json!(ImportMode::default().name())))
                .into(),
        ),
    ]
}

fn conditions() -> Vec<Parameter> {
    vec![
        header(
            "If-Match",
            "Acts only on one of these versions; `*`: only on a key that exists. On writes it \
             excludes `If-None-Match`.",
            values::etags().into(),
        ),
        header(
            "If-None-Match",
            "Acts only on none of these versions; `*`: only where there is no key. A read answers \
             304 otherwise, a write 412. On writes it excludes `If-Match`.",
            values::etags().into(),
        ),
        header(
            "If-Modified-Since",
            "Answers 304 unless the key was written after this date. Ignored beside \
             `If-None-Match`, and if it is no date of HTTP.",
            values::text().into(),
        ),
        header(
            "If-Unmodified-Since",
            "Answers 412 if the key was written after this date. Ignored beside `If-Match`, and if \
             it is no date of HTTP.",
            values::text().into(),
        ),
    ]
}

fn other_headers() -> Vec<Parameter> {
    let metadata = ContentBuilder::new()
        .schema(Some(values::metadata()))
        .example(Some(json!({"color": "red"})))
        .build();
    vec![
        ParameterBuilder::new()
            .name(METADATA)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "Metadata of the key: a JSON object of at most 1024 bytes, kept compact with the \
                 value; `{}` is none. Other characters than ASCII are written as `\\u` escapes.",
            ))
            .content("application/json", metadata)
            .build(),
        header(
            MIN_VERSION,
            "Session token, from `X-CloudKV-Version` of an earlier answer: the answer is not older \
             than what that one showed.",
            values::text().min_length(Some(1)).into(),
        ),
        header(
            REQUEST_ID,
            "ID of the request, for logs. One that isn't 1 to 128 visible ASCII characters without \
             quotes is replaced.",
            values::text().into(),
        ),
        header(
            "Origin",
            "Origin of the page that will send the request.",
            values::text().into(),
        ),
        header(
            "Access-Control-Request-Method",
            "Method that the page will use.",
            values::text().into(),
        ),
        header(
            "Access-Control-Request-Headers",
            "Headers that the page will send.",
            values::text().into(),
        ),
    ]
}

fn query(name: &str, description: &str, schema: RefOr<Schema>) -> Parameter {
    parameter(ParameterIn::Query, name, description, schema).build()
}

fn header(name: &str, description: &str, schema: RefOr<Schema>) -> Parameter {
    parameter(ParameterIn::Header, name, description, schema).build()
}

fn parameter(
    location: ParameterIn,
    name: &str,
    description: &str,
    schema: RefOr<Schema>,
) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(location)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
}
