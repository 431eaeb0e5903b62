//! Headers of responses. Each is a component of the document under its own name.

use serde_json::json;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{Header, HeaderBuilder, RefOr};

use super::values;

/// Headers that all responses have.
pub(super) const COMMON: [&str; 5] = [
    "X-Request-ID",
    "X-CloudKV-Region",
    "X-CloudKV-Lag",
    "Access-Control-Allow-Origin",
    "Access-Control-Expose-Headers",
];

/// Header of a session token.
pub(super) const SESSION_TOKEN: &str = "X-CloudKV-Version";

/// Returns all headers, by name.
pub(super) fn all() -> Vec<(&'static str, Header)> {
    let mut all = common();
    all.extend(of_keys());
    all.extend(of_resources());
    all
}

fn common() -> Vec<(&'static str, Header)> {
    vec![
        header(
            "X-Request-ID",
            "ID of the request: the client's, or a generated one.",
            values::text().into(),
        ),
        header(
            "X-CloudKV-Region",
            "Region that answered.",
            values::text().into(),
        ),
        header(
            "X-CloudKV-Lag",
            "Lag of each other region, in clusters of several regions.",
            values::text().into(),
        ),
        header(
            SESSION_TOKEN,
            "Session token, in clusters of several regions: send it as `X-CloudKV-Min-Version`.",
            values::text().into(),
        ),
        header(
            "Access-Control-Allow-Origin",
            "CORS: any origin may read the answer.",
            values::one_of(["*"]).into(),
        ),
        header(
            "Access-Control-Expose-Headers",
            "CORS: headers that pages may read.",
            values::text().into(),
        ),
    ]
}

fn of_keys() -> Vec<(&'static str, Header)> {
    vec![
        header(
            "ETag",
            "Version, quoted: compare it only.",
            values::etag().into(),
        ),
        header(
            "Last-Modified",
            "Time of the last write, in whole seconds.",
            values::text().into(),
        ),
        header(
            "Expires",
            "Time of the expiry, in whole seconds. Absent if the key doesn't expire.",
            values::text().into(),
        ),
        (
            "X-CloudKV-Metadata",
            HeaderBuilder::new()
                .description(Some(
                    "Metadata of the key: a JSON object, absent if it is empty.",
                ))
                .example(Some(json!("{\"color\":\"red\"}")))
                .build(),
        ),
        header(
            "X-Content-Type-Options",
            "Keeps browsers from guessing the type.",
            values::one_of(["nosniff"]).into(),
        ),
        header(
            "Content-Security-Policy",
            "Keeps a page from acting in the service's name.",
            values::text().into(),
        ),
        header(
            "Cross-Origin-Resource-Policy",
            "Lets pages of any origin embed the value.",
            values::one_of(["cross-origin"]).into(),
        ),
    ]
}

fn of_resources() -> Vec<(&'static str, Header)> {
    vec![
        header(
            "Cache-Control",
            "Caches must ask before they use the answer again, or don't keep it.",
            values::one_of(["no-cache", "no-store"]).into(),
        ),
        header(
            "Vary",
            "Request headers that the answer depends on.",
            values::text().into(),
        ),
        (
            "Link",
            HeaderBuilder::new()
                .description(Some("Next page, while there is more (RFC 8288)."))
                .example(Some(json!("</buckets?cursor=YU>; rel=\"next\"")))
                .build(),
        ),
        header(
            "Content-Disposition",
            "Keeps browsers from showing the answer: they save it.",
            values::text().into(),
        ),
        header("Allow", "Methods of the resource.", values::text().into()),
        header(
            "Retry-After",
            "Seconds after which a retry makes sense.",
            values::number().into(),
        ),
        header(
            "Access-Control-Allow-Methods",
            "CORS: methods of the resource.",
            values::text().into(),
        ),
        header(
            "Access-Control-Allow-Headers",
            "CORS: the requested headers.",
            values::text().into(),
        ),
        header(
            "Access-Control-Max-Age",
            "CORS: seconds for which the answer holds.",
            values::number().into(),
        ),
    ]
}

fn header(name: &'static str, description: &str, schema: RefOr<Schema>) -> (&'static str, Header) {
    let header = HeaderBuilder::new()
        .description(Some(description))
        .schema(Some(schema))
        .build();
    (name, header)
}
