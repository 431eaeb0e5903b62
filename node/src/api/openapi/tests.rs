//! Comparison of the document with what the code serves, knows and sends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::lookup::{array, resolve, text};
use super::operations::describe;
use super::page;
use crate::api::buckets::{
    BucketParams, CONFIRM_PARAMETER, EXPORT_PARAMETERS, IMPORT_PARAMETERS,
    LIST_PARAMETERS as BUCKETS_PARAMETERS,
};
use crate::api::error_code::ErrorCode;
use crate::api::errors::ApiError;
use crate::api::http::expiry;
use crate::api::keys::{
    BatchField, BatchOperationKind, KEY_METHODS, KEY_WATCH_PARAMETERS, LIST_METHODS,
    LIST_PARAMETERS, READ_PARAMETERS, WATCH_PARAMETERS,
};
use crate::api::routes::ROUTES;

const METHODS: [&str; 7] = ["get", "head", "put", "post", "patch", "delete", "options"];

fn document() -> Value {
    serde_json::to_value(describe()).unwrap()
}

/// Returns all operations, with their paths and methods.
fn operations(document: &Value) -> Vec<(&str, &'static str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let of_method = move |method| Some((path.as_str(), method, item.get(method)?));
        METHODS.into_iter().filter_map(of_method)
    });
    operations.collect()
}

/// Calls `visit` for each value within a value, with the name under which it is.
fn visit_all<'a>(value: &'a Value, name: &'a str, visit: &mut impl FnMut(&'a str, &'a Value)) {
    visit(name, value);
    match value {
        Value::Array(items) => {
            for item in items {
                visit_all(item, "", visit);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                visit_all(field, name, visit);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn it_is_a_document_of_openapi_3_1() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["servers"][0]["url"], "/");
    let tags: BTreeSet<&str> = array(&document["tags"])
        .iter()
        .map(|tag| text(&tag["name"]))
        .collect();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let id = text(&operation["operationId"]);
        assert!(ids.insert(id), "{id} is unique");
        assert!(tags.contains(text(&operation["tags"][0])), "{id}");
        assert!(!text(&operation["summary"]).is_empty(), "{id}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{id}"
        );
        let parameters = array(&operation["parameters"]).iter();
        let in_path: BTreeSet<String> = parameters
            .map(|parameter| resolve(&document, parameter))
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| format!("{{{}}}", text(&parameter["name"])))
            .collect();
        let segments = path.split('/').filter(|segment| segment.starts_with('{'));
        let expected: BTreeSet<String> = segments.map(str::to_owned).collect();
        assert_eq!(in_path, expected, "{method} {path}");
    }
}

#[test]
fn every_reference_has_its_component_and_every_component_a_reference() {
    let document = document();
    let mut referred = BTreeSet::new();
    visit_all(&document, "", &mut |name, value| {
        if name == "$ref" {
            let target = text(value).strip_prefix('#').unwrap();
            assert!(document.pointer(target).is_some(), "{target}");
            referred.insert(target);
        }
    });
    for (kind, components) in document["components"].as_object().unwrap() {
        if kind == "securitySchemes" {
            continue;
        }
        for name in components.as_object().unwrap().keys() {
            let target = format!("/components/{kind}/{name}");
            assert!(referred.contains(target.as_str()), "{target} is unused");
        }
    }
}

#[test]
fn it_has_the_methods_of_every_route() {
    let document = document();
    let mut described = BTreeMap::<&str, BTreeSet<String>>::new();
    for (path, method, _) in operations(&document) {
        let methods = described.entry(path).or_default();
        methods.insert(method.to_uppercase());
    }
    let kv = [
        ("/kv/{bucket}", LIST_METHODS),
        ("/kv/{bucket}/{key}", KEY_METHODS),
    ];
    let routes = ROUTES.map(|route| (route.path, route.methods));
    let served: BTreeMap<&str, BTreeSet<String>> = routes
        .into_iter()
        .chain(kv)
        .map(|(path, methods)| (path, methods.split(", ").map(str::to_owned).collect()))
        .collect();
    assert_eq!(described, served);
    let message = ApiError::no_such_route().into_message();
    for path in served.keys() {
        assert!(message.contains(path), "{message} lacks {path}");
    }
}

#[test]
fn it_has_every_code_of_errors() {
    let document = document();
    let mut described = BTreeSet::new();
    for (_, _, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = resolve(&document, response);
            let schema = &response["content"]["application/json"]["schema"];
            for code in array(&schema["allOf"][1]["properties"]["error"]["enum"]) {
                described.insert((status.parse::<u16>().unwrap(), text(code)));
            }
        }
    }
    let in_lines = &document["components"]["schemas"]["BatchAnswer"]["properties"]["error"];
    let in_lines: BTreeSet<&str> = array(&in_lines["enum"]).iter().map(text).collect();
    assert!(in_lines.contains("response_too_large"), "{in_lines:?}");
    let mut expected = BTreeSet::new();
    for code in ErrorCode::ALL {
        let (status, name) = (code.status().as_u16(), code.text());
        // It is for lines of batches only.
        if *code != ErrorCode::ResponseTooLarge {
            expected.insert((status, name));
        }
    }
    assert_eq!(described, expected);
    let all = array(&document["components"]["schemas"]["Error"]["properties"]["error"]["enum"]);
    let all: BTreeSet<&str> = all.iter().map(text).collect();
    assert_eq!(all, ErrorCode::ALL.iter().map(|code| code.text()).collect());
}

#[test]
fn every_operation_refers_to_the_response_to_other_methods() {
    let document = document();
    for (path, method, operation) in operations(&document) {
        assert_eq!(
            text(&operation["responses"]["405"]["$ref"]),
            "#/components/responses/405-method_not_allowed",
            "{method} {path}"
        );
    }
    let response = &document["components"]["responses"]["405-method_not_allowed"];
    let allow = &response["headers"]["Allow"];
    assert_eq!(
        resolve(&document, allow)["description"],
        "Methods of the resource."
    );
}

#[test]
fn texts_of_lists_are_bounded() {
    let document = document();
    let lengths = LIST_PARAMETERS.into_iter().filter_map(|name| {
        let schema = &document["components"]["parameters"][name]["schema"];
        Some((name, schema["maxLength"].as_u64()?))
    });
    let lengths: BTreeMap<&str, u64> = lengths.collect();
    let bounded = ["after", "delimiter", "end", "prefix", "start"].map(|name| (name, 1024));
    assert_eq!(lengths, BTreeMap::from(bounded));
}

#[test]
fn a_default_ttl_is_a_text_and_in_json_a_number_or_null_too() {
    let document = document();
    for (path, method) in [("/buckets", "post"), ("/buckets/{bucket}", "patch")] {
        let contents = &document["paths"][path][method]["requestBody"]["content"];
        let schema = |media_type: &str| {
            let schema = &contents[media_type]["schema"];
            schema["properties"]["default_ttl"].clone()
        };
        let json = schema("application/json");
        let types: Vec<&str> = array(&json["anyOf"])
            .iter()
            .map(|variant| text(&variant["type"]))
            .collect();
        assert_eq!(types, ["string", "integer", "null"]);
        for form in ["application/x-www-form-urlencoded", "multipart/form-data"] {
            assert_eq!(schema(form)["type"], "string");
        }
    }
}

#[test]
fn it_has_the_parameters_that_the_parsers_know() {
    let document = document();
    let of_patch = BucketParams::NAMES
        .into_iter()
        .filter(|name| *name != "access");
    let of_patch: Vec<&str> = of_patch.collect();
    // Lists and reads are event streams for those who ask for them.
    let of_list = [&LIST_PARAMETERS[..], &WATCH_PARAMETERS[..]].concat();
    let of_read = [&READ_PARAMETERS[..], &KEY_WATCH_PARAMETERS[..]].concat();
    let expected: [(&str, &str, &[&str]); 10] = [
        ("/buckets", "get", &BUCKETS_PARAMETERS),
        ("/buckets", "post", &BucketParams::NAMES),
        ("/buckets/{bucket}", "patch", &of_patch),
        ("/buckets/{bucket}", "delete", &[CONFIRM_PARAMETER]),
        ("/buckets/{bucket}/export", "get", &EXPORT_PARAMETERS),
        ("/buckets/{bucket}/import", "post", &IMPORT_PARAMETERS),
        ("/kv/{bucket}", "get", &of_list),
        ("/kv/{bucket}/{key}", "get", &of_read),
        ("/kv/{bucket}/{key}", "put", &expiry::PARAMETERS),
        ("/kv/{bucket}/{key}", "patch", &expiry::PARAMETERS),
    ];
    for (path, method, operation) in operations(&document) {
        // HEAD is described as GET is, and POST of a key as PUT.
        let like = match (path, method) {
            (_, "head") => "get",
            ("/kv/{bucket}/{key}", "post") => "put",
            _ => method,
        };
        let parameters = array(&operation["parameters"]).iter();
        let described: BTreeSet<&str> = parameters
            .map(|parameter| resolve(&document, parameter))
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| text(&parameter["name"]))
            .collect();
        let known = expected
            .iter()
            .find(|known| (known.0, known.1) == (path, like));
        let known = known.map_or(&[][..], |(_, _, names)| *names);
        assert_eq!(
            described,
            known.iter().copied().collect(),
            "{method} {path}"
        );
    }
}

#[test]
fn operations_of_batches_have_their_fields() {
    let document = document();
    let kinds = array(&document["components"]["schemas"]["BatchOperation"]["anyOf"]);
    assert_eq!(kinds.len(), BatchOperationKind::ALL.len());
    for (kind, schema) in BatchOperationKind::ALL.into_iter().zip(kinds) {
        let described: BTreeSet<&str> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let fields = BatchField::ALL.into_iter();
        let fields = fields.filter(|field| kind.has_field(*field));
        assert_eq!(described, fields.map(BatchField::name).collect());
        assert_eq!(schema["additionalProperties"], false);
    }
}

#[test]
fn the_page_shows_every_operation_and_code() {
    let document = document();
    let page = page::render(&document);
    for (path, method, operation) in operations(&document) {
        if !matches!(method, "head" | "options") {
            assert!(
                page.contains(&format!("class=\"{method}\"")),
                "{method} {path}"
            );
            assert!(
                page.contains(text(&operation["summary"])),
                "{method} {path}"
            );
        }
    }
    for code in ErrorCode::ALL {
        assert!(
            page.contains(&format!("id=\"{}\"", code.text())),
            "{code:?}"
        );
    }
    // Every link within the page has its target, and the markup of every text is complete.
    for link in page.split("href=\"#").skip(1) {
        let target = link.split('"').next().unwrap();
        assert!(page.contains(&format!("id=\"{target}\"")), "{target}");
    }
    assert!(!page.contains('`') && !page.contains("**"));
}
