//! Responses of errors: one for each status and set of codes.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::json;
use utoipa::openapi::schema::{AllOfBuilder, Schema};
use utoipa::openapi::{ContentBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder};

use super::response_headers::{self, SESSION_TOKEN};
use super::values;
use crate::api::error_code::ErrorCode;

/// Name of the schema of error bodies.
pub(super) const ERROR_SCHEMA: &str = "Error";

/// Returns the schema of error bodies, with all codes.
pub(super) fn error_schema() -> ObjectBuilder {
    let mut codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.text()).collect();
    codes.sort_unstable();
    codes.dedup();
    let keys = values::number().description(Some(
        "Number of keys of the bucket, with `confirm_mismatch`.",
    ));
    ObjectBuilder::new()
        .description(Some(
            "An error: a stable code for programs, a sentence for people.",
        ))
        .property(
            "error",
            values::one_of(codes).description(Some("Stable code.")),
        )
        .required("error")
        .property(
            "message",
            values::text().description(Some("What is wrong, and how to avoid it.")),
        )
        .required("message")
        .property("keys", keys)
}

/// Returns the responses of these codes by status, each with the name of its component.
pub(super) fn by_status(codes: &[ErrorCode]) -> BTreeMap<u16, (String, Response)> {
    let mut groups = BTreeMap::<u16, Vec<ErrorCode>>::new();
    for code in ErrorCode::ALL.iter().filter(|code| codes.contains(code)) {
        groups
            .entry(code.status().as_u16())
            .or_default()
            .push(*code);
    }
    let responses = groups.into_iter().map(|(status, group)| {
        let texts: Vec<&str> = group.iter().map(|code| code.text()).collect();
        let name = format!("{status}-{}", texts.join("-"));
        (status, (name, response(&group)))
    });
    responses.collect()
}

/// Returns the response of codes of one status.
fn response(codes: &[ErrorCode]) -> Response {
    let lines = codes
        .iter()
        .map(|code| format!("- `{}`: {}", code.text(), code.advice()));
    let lines: Vec<String> = lines.collect();
    let content = ContentBuilder::new()
        .schema(Some(body_schema(codes)))
        .build();
    let headers = codes.iter().flat_map(|code| headers_of(code.status()));
    response_headers::COMMON
        .iter()
        .chain(headers)
        .fold(ResponseBuilder::new(), |response, name| {
            response.header_ref(*name, header_ref(name))
        })
        .description(lines.join("\n"))
        .content("application/json", content)
        .build()
}

fn body_schema(codes: &[ErrorCode]) -> RefOr<Schema> {
    let code = values::one_of(codes.iter().map(|code| code.text()));
    AllOfBuilder::new()
        .item(Ref::from_schema_name(ERROR_SCHEMA))
        .item(ObjectBuilder::new().property("error", code))
        .examples(codes.iter().take(1).map(
            |code| json!({"error": code.text(), "message": "a sentence that says what is wrong"}),
        ))
        .into()
}

/// Returns the headers that only errors of a status have.
fn headers_of(status: StatusCode) -> &'static [&'static str] {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => &["Allow"],
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => &["Retry-After"],
        StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => &[SESSION_TOKEN],
        _ => &[],
    }
}

/// Returns a reference to a header.
pub(super) fn header_ref(name: &str) -> Ref {
    Ref::new(format!("#/components/headers/{name}"))
}
