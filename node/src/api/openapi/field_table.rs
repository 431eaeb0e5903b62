//! Tables of the fields of JSON objects, and the names of their types.

use serde_json::Value;

use super::lookup::{array, resolve, text};
use super::markup::{escape, inline};

/// Maximum depth of objects within objects that a table shows.
const MAX_DEPTH: usize = 3;

/// Largest bound of a number that is shown: larger ones say nothing to people.
const MAX_SHOWN_BOUND: u64 = 1_000_000_000;

/// Renders the fields of a schema's object, or of the objects in its array; empty if it has none.
pub(super) fn render(document: &Value, schema: &Value) -> String {
    let mut rows = String::new();
    add_rows(document, schema, ("", 0), &mut rows);
    if rows.is_empty() {
        return rows;
    }
    format!("<table>\n{rows}</table>\n")
}

fn add_rows(document: &Value, schema: &Value, (prefix, depth): (&str, usize), rows: &mut String) {
    let schema = resolve(document, schema);
    for part in array(&schema["allOf"]) {
        add_rows(document, part, (prefix, depth + 1), rows);
    }
    if depth > MAX_DEPTH {
        return;
    }
    for variant in array(&schema["anyOf"]) {
        let variant = resolve(document, variant);
        if variant["properties"].is_object() {
            let title = match text(&variant["title"]) {
                "" => text(&variant["description"]),
                title => title,
            };
            let title = inline(title);
            *rows += &format!("<tr><th colspan=\"3\">{title}</th></tr>\n");
            add_rows(document, variant, (prefix, depth + 1), rows);
        }
    }
    let items = &schema["items"];
    if items.is_object() {
        // A list as a whole has no name.
        let inner = match prefix {
            "" => String::new(),
            name => format!("{name}[]."),
        };
        add_rows(document, items, (&inner, depth + 1), rows);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        let about = field.get("description").unwrap_or_else(|| {
            let field = resolve(document, field);
            &field["description"]
        });
        *rows += &format!(
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>\n",
            escape(&path),
            describe_type(document, field),
            inline(text(about)),
        );
        let field = resolve(document, field);
        let inner = if field["items"].is_object() {
            path
        } else {
            path + "."
        };
        add_rows(document, field, (&inner, depth + 1), rows);
    }
}

/// Describes the type of a schema, in HTML.
pub(super) fn describe_type(document: &Value, schema: &Value) -> String {
    let schema = resolve(document, schema);
    let variants = array(&schema["anyOf"])
        .iter()
        .chain(array(&schema["oneOf"]));
    let variants: Vec<String> = variants
        .map(|variant| describe_type(document, variant))
        .collect();
    if !variants.is_empty() {
        return variants.join(" or ");
    }
    let values: Vec<String> = array(&schema["enum"])
        .iter()
        .map(|value| format!("<code>{}</code>", escape(value.as_str().unwrap_or("null"))))
        .collect();
    let mut described = if values.is_empty() {
        type_name(document, schema)
    } else {
        values.join(" ")
    };
    if let (Some(least), Some(most)) = (schema["minimum"].as_u64(), schema["maximum"].as_u64())
        && most <= MAX_SHOWN_BOUND
    {
        described += &format!(", {least} to {most}");
    }
    match &schema["default"] {
        Value::Null => described,
        Value::String(text) => format!("{described}; <code>{}</code> by default", escape(text)),
        other => format!("{described}; {} by default", escape(&other.to_string())),
    }
}

fn type_name(document: &Value, schema: &Value) -> String {
    let names: Vec<&str> = match &schema["type"] {
        Value::Array(names) => names.iter().map(text).collect(),
        name => vec![text(name)],
    };
    let names = names.into_iter().map(|name| match name {
        "" => "any".to_owned(),
        "string" if schema["format"] == "date-time" => "time".to_owned(),
        "string" => "text".to_owned(),
        "integer" => "number".to_owned(),
        "array" => format!("list of {}", describe_type(document, &schema["items"])),
        other => escape(other),
    });
    names.collect::<Vec<_>>().join(" or ")
}
