//! Operations of the service itself.

use serde_json::json;
use utoipa::openapi::{HttpMethod, ObjectBuilder};

use super::document::Document;
use super::operation::{OperationDoc, Tag, json_content, text_content};
use super::parameters::DESCRIPTION_CONDITION;
use super::preflight::preflight;
use super::values;

/// Adds the operations of the service.
pub(super) fn describe(document: &mut Document) {
    for (path, ids, get) in [
        ("/ping", ["headPing", "optionsPing"], ping()),
        (
            "/openapi.json",
            ["headDocument", "optionsDocument"],
            describe_document(),
        ),
        ("/docs", ["headDocs", "optionsDocs"], docs()),
    ] {
        let [head, options] = ids;
        document.add(path, HttpMethod::Get, get.clone());
        document.add(path, HttpMethod::Head, get.renamed(head));
        let options = preflight(options, Tag::Service, &[]);
        document.add(path, HttpMethod::Options, options);
    }
}

fn ping() -> OperationDoc {
    let pong = ObjectBuilder::new()
        .property("message", values::one_of(["pong"]))
        .required("message");
    OperationDoc::new("ping", Tag::Service, "Check that the node answers")
        .response(
            200,
            "It answers.",
            &[],
            [json_content(pong, json!({"message": "pong"}))],
        )
        .sample("curl -i \"$API/ping\"")
}

fn describe_document() -> OperationDoc {
    let document = ObjectBuilder::new().description(Some("A document of OpenAPI 3.1."));
    OperationDoc::new(
        "getDocument",
        Tag::Service,
        "Get this description for programs",
    )
    .parameters(&[DESCRIPTION_CONDITION])
    .response(
        200,
        "The document.",
        &["ETag", "Cache-Control"],
        [json_content(document, json!({"openapi": "3.1.0"}))],
    )
    .response(304, "The client has it.", &["ETag", "Cache-Control"], [])
    .sample("curl \"$API/openapi.json\"")
}

fn docs() -> OperationDoc {
    let headers = [
        "ETag",
        "Cache-Control",
        "X-Content-Type-Options",
        "Content-Security-Policy",
    ];
    OperationDoc::new("getDocs", Tag::Service, "Get this description for people")
        .parameters(&[DESCRIPTION_CONDITION])
        .response(
            200,
            "The page.",
            &headers,
            [text_content("text/html", "<!doctype html>")],
        )
        .response(304, "The client has it.", &headers, [])
}
