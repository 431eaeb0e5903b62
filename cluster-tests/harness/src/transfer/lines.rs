//! Lines of a body, each of them JSON.

use serde_json::Value;

use crate::batches::LINES;
use crate::response::HttpResponse;

/// Parses a line as JSON.
///
/// # Panics
/// Panics if it is none.
pub fn parse_line(line: &str) -> Value {
    match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => panic!("no JSON: {error}: {line}"),
    }
}

/// Returns the lines of a response, each of which must end with a newline.
///
/// # Panics
/// Panics if it isn't one of lines.
#[track_caller]
pub fn complete_lines(response: &HttpResponse) -> Vec<Value> {
    assert_eq!(response.assert_status(200).header("content-type"), LINES);
    let text = response.text().strip_suffix('\n');
    let text = text.unwrap_or_else(|| panic!("the last line has no end: {response:?}"));
    text.split('\n').map(parse_line).collect()
}
