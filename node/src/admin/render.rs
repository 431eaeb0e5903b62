//! Renders JSON as readable text: fields in a column, lists of objects as tables.
//!
//! It depends on no particular field, so that a new field needs no change here: fields that the
//! caller doesn't put first follow by name.

use serde_json::{Map, Value};

/// Renders a value, with a newline at the end of each line. Fields in `first` come first, in that
/// order.
pub(super) fn render(value: &Value, first: &[&str]) -> String {
    let lines = render_lines(value, first);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn render_lines(value: &Value, first: &[&str]) -> Vec<String> {
    match value {
        Value::Object(fields) => render_object(fields, first),
        Value::Array(items) => render_table(items, first).unwrap_or_else(|| {
            items
                .iter()
                .flat_map(|item| mark_item(&render_lines(item, first)))
                .collect()
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            vec![inline_text(value)]
        }
    }
}

/// Sort key of a field.
fn position<'a>(name: &'a str, first: &[&str]) -> (usize, &'a str) {
    let position = first.iter().position(|it| *it == name);
    (position.unwrap_or(first.len()), name)
}

/// Renders inline fields first, in a column; then the others, each below its name.
fn render_object(fields: &Map<String, Value>, first: &[&str]) -> Vec<String> {
    let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| position(name, first));
    let (inline, nested): (Vec<_>, Vec<_>) =
        fields.into_iter().partition(|(_, value)| is_inline(value));
    let width = inline
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut lines: Vec<String> = inline
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}", inline_text(value)))
        .collect();
    for (name, value) in nested {
        lines.push(format!("{name}:"));
        lines.extend(
            self::render_lines(value, first)
                .iter()
                .map(|line| format!("  {line}")),
        );
    }
    lines
}

/// Renders objects as a table if all of their fields are inline, else returns `None`.
fn render_table(items: &[Value], first: &[&str]) -> Option<Vec<String>> {
    let rows: Vec<&Map<String, Value>> =
        items.iter().map(Value::as_object).collect::<Option<_>>()?;
    if !rows.iter().all(|row| row.values().all(is_inline)) {
        return None;
    }
    let mut names: Vec<&String> = rows.iter().flat_map(|row| row.keys()).collect();
    names.sort_by_key(|name| position(name, first));
    names.dedup();
    let cell =
        |row: &Map<String, Value>, name: &String| row.get(name).map_or("-".into(), inline_text);
    let header: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
    let body = rows
        .iter()
        .map(|row| names.iter().map(|name| cell(row, name)).collect());
    Some(align_columns(
        &std::iter::once(header).chain(body).collect::<Vec<_>>(),
    ))
}

fn align_columns(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Marks the lines of one item of a list.
fn mark_item(lines: &[String]) -> Vec<String> {
    let mark =
        |(index, line): (usize, &String)| format!("{} {line}", if index == 0 { "-" } else { " " });
    lines.iter().enumerate().map(mark).collect()
}

/// Returns whether a value fits on its field's line: it holds no objects.
fn is_inline(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::Array(items) => items
            .iter()
            .all(|item| !item.is_object() && !item.is_array()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn inline_text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(is_true) => if *is_true { "yes" } else { "no" }.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(inline_text).collect::<Vec<_>>().join(", "),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_tables_and_lists_are_rendered() {
        let status = json!({
            "region": "local",
            "ready": true,
            "warnings": [],
            "peers": ["a", "b"],
            "disk": { "free_bytes": 5, "used": null },
            "shards": [{ "id": 0, "leader": "n1" }, { "id": 10, "lag": 3 }],
            "groups": [{ "name": "x", "more": { "y": 1 } }],
        });
        let expected = "\
peers     a, b
ready     yes
region    local
warnings  none
disk:
  free_bytes  5
  used        -
groups:
  - name  x
    more:
      y  1
shards:
  id  lag  leader
  0   -    n1
  10  3    -
";
        assert_eq!(render(&status, &[]), expected);
        let rows = json!([{ "a": 1, "name": "x", "b": 2 }]);
        assert_eq!(render(&rows, &["name", "b"]), "name  b  a\nx     2  1\n");
        assert_eq!(render(&rows[0], &["name"]), "name  x\na     1\nb     2\n");
    }
}
