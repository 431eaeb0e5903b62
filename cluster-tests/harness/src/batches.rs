//! Batches of operations on keys: requests, and the lines of their answers.

use serde_json::{Value, json};

use super::http::{ApiClient, ApiRequest, Bucket};
use super::response::HttpResponse;

/// `Content-Type` of batches with an operation on each line.
pub const LINES: &str = "application/x-ndjson";

/// Status and error code of an operation that succeeded.
pub const OK: (u64, &str) = (200, "");
/// Status and error code of an operation on a key that isn't there.
pub const NOT_FOUND: (u64, &str) = (404, "not_found");
/// Status and error code of an operation whose condition doesn't hold.
pub const CONDITION_FAILED: (u64, &str) = (412, "precondition_failed");

/// Returns an operation that writes a value.
pub fn put(key: &str, value: &str) -> Value {
    json!({"op": "put", "key": key, "value": value})
}

/// Returns an operation that reads a key.
pub fn get(key: &str) -> Value {
    json!({"op": "get", "key": key})
}

/// Returns an operation that deletes a key.
pub fn delete(key: &str) -> Value {
    json!({"op": "delete", "key": key})
}

/// Begins a request with these operations, one on each line.
pub fn post(api: &ApiClient, bucket: &Bucket, operations: &[Value]) -> ApiRequest {
    let lines: Vec<String> = operations.iter().map(Value::to_string).collect();
    let post = api.post(&bucket.listing_path());
    post.header("content-type", LINES).body(lines.join("\n"))
}

/// Returns the lines of the answer to a batch.
#[track_caller]
pub fn lines_of(answer: &HttpResponse) -> Vec<Value> {
    assert_eq!(answer.assert_status(200).header("content-type"), LINES);
    let lines = answer.text().lines();
    let lines = lines.map(serde_json::from_str::<Value>);
    lines.map(|line| line.expect("a line is JSON")).collect()
}

/// Executes operations, and returns their outcomes: one for each, with its key.
pub async fn execute(api: &ApiClient, bucket: &Bucket, operations: &[Value]) -> Vec<Value> {
    let outcomes = lines_of(&post(api, bucket, operations).await);
    let key = |line: &Value| line["key"].clone();
    let keys: Vec<Value> = operations.iter().map(key).collect();
    assert_eq!(outcomes.iter().map(key).collect::<Vec<_>>(), keys);
    outcomes
}

/// Returns status and error code of each outcome; no code is empty.
#[track_caller]
pub fn statuses(outcomes: &[Value]) -> Vec<(u64, &str)> {
    let of = |outcome: &Value| outcome["status"].as_u64().expect("a line has a status");
    let outcomes = outcomes.iter();
    outcomes
        .map(|outcome| (of(outcome), outcome["error"].as_str().unwrap_or("")))
        .collect()
}
