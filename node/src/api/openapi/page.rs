//! The page for people, rendered from the document. It is one file with its style, and needs no
//! script.

use serde_json::Value;

use super::field_table::{self, describe_type};
use super::lookup::{array, resolve, text};
use super::markup::{blocks, escape, inline};
use super::{parameters, response_headers};
use crate::api::error_code::ErrorCode;

/// Style of the page.
pub(super) const STYLE: &str = include_str!("page.css");

/// Methods that the page shows, in this order. `OPTIONS` is described once for all.
const METHODS: [&str; 6] = ["get", "head", "put", "post", "patch", "delete"];

/// Parameter that is described once for all.
const COMMON_PARAMETER: &str = parameters::REQUEST_ID;

/// Call of the API: the operations of a path that do the same, by one or two methods.
struct Call<'a> {
    methods: Vec<&'static str>,
    path: &'a str,
    operation: &'a Value,
}

/// Renders the page.
pub(super) fn render(document: &Value) -> String {
    let info = &document["info"];
    let groups: Vec<(&Value, Vec<Call<'_>>)> = document["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tag| (tag, calls_of(document, text(&tag["name"]))))
        .collect();
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} HTTP API</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>{title} HTTP API <small>{version}</small></h1>\n{intro}</header>\n",
        title = escape(text(&info["title"])),
        version = escape(text(&info["version"])),
        intro = blocks(text(&info["description"])),
    );
    html += &navigation(&groups);
    html += "<main>\n";
    html += &common_parts(document);
    for (tag, calls) in &groups {
        let (name, about) = (text(&tag["name"]), text(&tag["description"]));
        html += &format!("<h2>{}</h2>\n{}", escape(name), blocks(about));
        for call in calls {
            html += &section(document, call);
        }
    }
    html += &error_table();
    html += "</main>\n</body>\n</html>\n";
    html
}

fn calls_of<'a>(document: &'a Value, tag: &str) -> Vec<Call<'a>> {
    let mut calls: Vec<Call<'a>> = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS {
            let operation = &item[method];
            if text(&operation["tags"][0]) != tag {
                continue;
            }
            let same = |call: &Call<'_>| {
                call.path == path.as_str() && call.operation["summary"] == operation["summary"]
            };
            match calls.iter().position(same) {
                Some(at) => calls[at].methods.push(method),
                None => calls.push(Call {
                    methods: vec![method],
                    path,
                    operation,
                }),
            }
        }
    }
    calls
}

fn navigation(groups: &[(&Value, Vec<Call<'_>>)]) -> String {
    let mut html = String::from("<nav>\n");
    for (tag, calls) in groups {
        html += &format!("<b>{}</b>\n<ul>\n", escape(text(&tag["name"])));
        for call in calls {
            html += &format!(
                "<li><a href=\"#{id}\">{summary}</a></li>\n",
                id = escape(text(&call.operation["operationId"])),
                summary = escape(text(&call.operation["summary"])),
            );
        }
        html += "</ul>\n";
    }
    html + "<b><a href=\"#errors\">Errors</a></b>\n</nav>\n"
}

/// Renders what all calls have in common.
fn common_parts(document: &Value) -> String {
    let parameter = &document["components"]["parameters"][COMMON_PARAMETER];
    let rows = response_headers::COMMON
        .iter()
        .map(|name| header_row(document, name))
        .collect::<String>();
    format!(
        "<h2>All calls</h2>\n<p>In the examples <code>$API</code> is the address of a node or \
         router, <code>$BUCKET</code> a bucket's ID and <code>$ACCOUNT</code> an account's key. \
         <code>HEAD</code> answers the headers of <code>GET</code>, and <code>OPTIONS</code> of \
         each path the preflights of browsers. The same for programs: \
         <a href=\"openapi.json\">openapi.json</a>.</p>\n\
         <p>Each call takes the header <code>{COMMON_PARAMETER}</code>: {about}</p>\n\
         <h4>Headers of all answers</h4>\n<table>\n{rows}</table>\n",
        about = inline(text(&parameter["description"])),
    )
}

fn section(document: &Value, call: &Call<'_>) -> String {
    let operation = call.operation;
    let methods: Vec<String> = call
        .methods
        .iter()
        .map(|method| format!("<b class=\"{method}\">{}</b>", method.to_uppercase()))
        .collect();
    let mut html = format!(
        "<section id=\"{id}\">\n<h3>{summary}</h3>\n\
         <p class=\"route\">{methods} <code>{path}</code>{key}</p>\n{about}",
        id = escape(text(&operation["operationId"])),
        summary = escape(text(&operation["summary"])),
        methods = methods.join(" "),
        path = escape(call.path),
        key = api_key_note(operation),
        about = blocks(text(&operation["description"])),
    );
    for sample in array(&operation["x-codeSamples"]) {
        html += &format!("<pre>{}</pre>\n", escape(text(&sample["source"])));
    }
    html += &parameter_table(document, operation);
    html += &request_body(document, &operation["requestBody"]);
    html += &answers(document, &operation["responses"]);
    html += &errors(document, &operation["responses"]);
    html + "</section>\n"
}

fn api_key_note(operation: &Value) -> &'static str {
    match array(&operation["security"]).len() {
        0 => "",
        1 => " <span>needs <code>api-key</code></span>",
        _ => " <span><code>api-key</code> optional, or by access mode</span>",
    }
}

fn parameter_table(document: &Value, operation: &Value) -> String {
    let rows = array(&operation["parameters"]).iter().map(|parameter| {
        let parameter = resolve(document, parameter);
        let name = text(&parameter["name"]);
        if name == COMMON_PARAMETER {
            return String::new();
        }
        let schema = match parameter.get("schema") {
            Some(schema) => schema,
            None => &parameter["content"]["application/json"]["schema"],
        };
        format!(
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            escape(name),
            escape(text(&parameter["in"])),
            describe_type(document, schema),
            inline(text(&parameter["description"])),
        )
    });
    let rows = rows.collect::<String>();
    if rows.is_empty() {
        return rows;
    }
    format!("<h4>Parameters</h4>\n<table>\n{rows}</table>\n")
}

fn request_body(document: &Value, body: &Value) -> String {
    let Some(contents) = body["content"].as_object() else {
        return String::new();
    };
    let types: Vec<String> = contents
        .keys()
        .map(|name| format!("<code>{}</code>", escape(name)))
        .collect();
    let about = inline(text(&body["description"]));
    let mut html = format!("<h4>Body</h4>\n<p>{}: {about}</p>\n", types.join(", "));
    if let Some(content) = contents.values().next() {
        html += &field_table::render(document, &content["schema"]);
        html += &example(content);
    }
    html
}

/// Renders the answers that are no errors.
fn answers(document: &Value, responses: &Value) -> String {
    let mut html = String::from("<h4>Answers</h4>\n");
    for (status, response) in responses.as_object().into_iter().flatten() {
        if is_error(status) {
            continue;
        }
        let about = inline(text(&response["description"]));
        html += &format!("<p><b>{}</b> {about}</p>\n", escape(status));
        let headers = response["headers"].as_object().into_iter().flatten();
        let rows = headers
            .filter(|(name, _)| !response_headers::COMMON.contains(&name.as_str()))
            .map(|(name, _)| header_row(document, name))
            .collect::<String>();
        if !rows.is_empty() {
            html += &format!("<table>\n{rows}</table>\n");
        }
        for (media_type, content) in response["content"].as_object().into_iter().flatten() {
            html += &format!("<p><code>{}</code></p>\n", escape(media_type));
            html += &field_table::render(document, &content["schema"]);
            html += &example(content);
        }
    }
    html
}

fn header_row(document: &Value, name: &str) -> String {
    let header = &document["components"]["headers"][name];
    format!(
        "<tr><td><code>{}</code></td><td>{}</td></tr>\n",
        escape(name),
        inline(text(&header["description"])),
    )
}

fn example(content: &Value) -> String {
    match &content["example"] {
        Value::Null => String::new(),
        Value::String(text) => format!("<pre>{}</pre>\n", escape(text)),
        json => {
            let text = serde_json::to_string_pretty(json).unwrap_or_default();
            format!("<pre>{}</pre>\n", escape(&text))
        }
    }
}

/// Renders the codes of errors, by status.
fn errors(document: &Value, responses: &Value) -> String {
    let mut html = String::from("<h4>Errors</h4>\n<p>");
    for (status, response) in responses.as_object().into_iter().flatten() {
        if !is_error(status) {
            continue;
        }
        let response = resolve(document, response);
        let schema = &response["content"]["application/json"]["schema"];
        html += &format!("<b>{}</b>", escape(status));
        for code in array(&schema["allOf"][1]["properties"]["error"]["enum"]) {
            let code = escape(text(code));
            html += &format!(" <a href=\"#{code}\"><code>{code}</code></a>");
        }
        html += "\n";
    }
    html + "</p>\n"
}

fn error_table() -> String {
    let mut html = String::from("<h2 id=\"errors\">Errors</h2>\n<table>\n");
    for (at, code) in ErrorCode::ALL.iter().enumerate() {
        let is_first = !ErrorCode::ALL[..at]
            .iter()
            .any(|it| it.text() == code.text());
        let id = if is_first {
            format!(" id=\"{}\"", code.text())
        } else {
            String::new()
        };
        html += &format!(
            "<tr{id}><td>{}</td><td><code>{}</code></td><td>{}</td></tr>\n",
            code.status().as_u16(),
            code.text(),
            inline(code.advice()),
        );
    }
    html + "</table>\n"
}

fn is_error(status: &str) -> bool {
    status.starts_with(['4', '5'])
}
