//! Whole answers to exports and imports, with all that they promise checked.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::lines::complete_lines;
use crate::batches::LINES;
use crate::http::{ApiClient, ApiRequest, Bucket};
use crate::response::HttpResponse;
use crate::watch::BucketCopy;

/// Maximum number of errors that the last line of an import lists.
const MAX_LISTED_ERRORS: u64 = 100;

/// Content type that a list shows for a key without one.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// A whole export.
#[derive(Clone, Debug)]
pub struct ExportedBucket {
    /// Lines of the keys.
    pub keys: Vec<Value>,
    /// Position from which a watch goes on, if there is one.
    pub since: Option<String>,
    /// All bytes.
    pub body: Bytes,
}

impl ExportedBucket {
    /// Reads the response to an export.
    ///
    /// # Panics
    /// Panics if it isn't whole, or if its last line is wrong.
    #[track_caller]
    pub fn from_response(response: &HttpResponse) -> Self {
        let mut keys = complete_lines(response);
        let end = keys.pop().unwrap_or_default();
        assert_eq!(end["end"], true, "{end}");
        assert_eq!(end["keys"], keys.len(), "{end}");
        let text = response.text().trim_end_matches('\n');
        let before_end = text.rfind('\n').map_or(0, |newline| newline + 1);
        assert_eq!(end["bytes"], before_end, "{end}");
        let since = end.get("since").and_then(Value::as_str).map(str::to_owned);
        let fields = end.as_object().map_or(0, Map::len);
        assert_eq!(fields, 3 + usize::from(since.is_some()), "{end}");
        Self {
            keys,
            since,
            body: response.body.clone(),
        }
    }

    /// Asserts that it has the same keys as a JSON list with values, and the same of each.
    ///
    /// # Panics
    /// Panics if it hasn't.
    #[track_caller]
    pub fn assert_equals(&self, listed: &BucketCopy) {
        let mut expected = listed.clone();
        for line in &self.keys {
            let name = line["key"].as_str().unwrap_or_default();
            match expected.remove(name) {
                Some(key) => assert_same(line, &key),
                None => panic!("not listed, or exported twice: {line}"),
            }
        }
        assert!(expected.is_empty(), "not exported: {expected:?}");
    }
}

/// Asserts that a line of an export and an entry of a list tell the same of a key.
#[track_caller]
fn assert_same(line: &Value, listed: &Value) {
    for field in ["version", "value", "value_base64"] {
        assert_eq!(line.get(field), listed.get(field), "{line} {listed}");
    }
    let content_type = line.get("content_type").cloned();
    let content_type = content_type.unwrap_or_else(|| json!(UNKNOWN_TYPE));
    assert_eq!(content_type, listed["content_type"], "{line}");
    let metadata = line.get("metadata").cloned().unwrap_or_default();
    assert_eq!(metadata, listed["metadata"], "{line}");
    // Lists round times down to microseconds.
    let written = line.get("expires_at").expect("expires_at is written out");
    match (written.as_str(), listed["expires_at"].as_str()) {
        (Some(written), Some(listed)) => {
            let has_begin = written.starts_with(listed.trim_end_matches('Z'));
            assert!(has_begin, "{line} {listed}");
        }
        (None, None) => assert!(written.is_null(), "{line}"),
        (written, _) => panic!("{written:?} {line} {listed}"),
    }
    let known = [
        "key",
        "value",
        "value_base64",
        "content_type",
        "metadata",
        "expires_at",
        "version",
    ];
    let mut fields = line.as_object().into_iter().flat_map(Map::keys);
    let unknown = fields.find(|field| !known.contains(&field.as_str()));
    assert_eq!(unknown, None, "{line}");
}

/// Exports a bucket, by its owner. `query` is empty, or begins with a question mark.
///
/// # Panics
/// Panics if the export fails.
pub async fn export(api: &ApiClient, bucket: &Bucket, query: &str) -> ExportedBucket {
    let path = format!("{}/export{query}", bucket.path());
    let response = api.get(&path).api_key(&bucket.account).await;
    ExportedBucket::from_response(&response)
}

/// Begins an import of this body, by the bucket's owner.
pub fn import(api: &ApiClient, bucket: &Bucket, query: &str, body: impl Into<Bytes>) -> ApiRequest {
    let path = format!("{}/import{query}", bucket.path());
    let post = api.post(&path).api_key(&bucket.account);
    let body: Bytes = body.into();
    post.header("content-type", LINES).body(body)
}

/// Imports lines, by the bucket's owner, and returns the last line of the answer.
///
/// # Panics
/// Panics if the import doesn't come to its end.
pub async fn import_lines(api: &ApiClient, bucket: &Bucket, query: &str, lines: &[Value]) -> Value {
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    import_end(&import(api, bucket, query, lines.concat()).await)
}

/// Returns the last line of the response to an import.
///
/// # Panics
/// Panics if it isn't the end, or if it or a progress line is wrong.
#[track_caller]
pub fn import_end(response: &HttpResponse) -> Value {
    let mut progress = complete_lines(response);
    let end = progress.pop().unwrap_or_default();
    let numbers = ["imported", "skipped", "failed"];
    let number = |line: &Value, field: &str| match line[field].as_u64() {
        Some(number) => number,
        None => panic!("no {field}: {line}"),
    };
    let mut before = [0; 3];
    for line in &progress {
        let now = numbers.map(|field| number(line, field));
        let has_grown = before.iter().zip(&now).all(|(before, now)| before <= now);
        let is_exact = now.iter().sum::<u64>() <= number(line, "lines");
        let fields = line.as_object().map_or(0, Map::len);
        assert!(has_grown && is_exact && fields == 4, "{line}");
        before = now;
    }
    assert_eq!(end["end"], true, "{end}");
    let last = numbers.map(|field| number(&end, field));
    let has_grown = before
        .iter()
        .zip(&last)
        .all(|(before, last)| before <= last);
    assert!(has_grown, "{end} {progress:?}");
    let errors = end["errors"].as_array().map_or(0, Vec::len) as u64;
    assert_eq!(errors, last[2].min(MAX_LISTED_ERRORS), "{end}");
    let fields = end.as_object().map_or(0, Map::len);
    assert_eq!(fields, 5, "{end}");
    // At most one a second, and the time includes that of the body.
    let seconds = response.elapsed.as_secs() + 1;
    assert!(progress.len() as u64 <= seconds, "{progress:?}");
    end
}
