//! One export of a bucket.

use std::net::SocketAddr;

use serde_json::Value;

use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::transfer::LineClient;
use cloudkv_test_harness::watch::BucketCopy;

/// An export that is whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BucketExport {
    /// Keys with the fields of their lines, the name as in lists.
    pub keys: BucketCopy,
    /// Lines of the keys.
    pub lines: Vec<String>,
    /// Token from which a watch misses nothing, if there is one.
    pub since: Option<String>,
}

/// Result of a request for an export.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ExportOutcome {
    /// All of the bucket, and the region that served it.
    Complete(BucketExport, String),
    /// It broke off, as its missing last line tells.
    Partial,
    /// It didn't begin.
    Refused,
}

/// Exports a bucket.
///
/// # Errors
/// Returns what no client should get.
pub(super) async fn export(server: SocketAddr, bucket: &Bucket) -> Result<ExportOutcome, String> {
    let Ok(stream) = LineClient::http1(server).export(bucket, "").await else {
        return Ok(ExportOutcome::Refused);
    };
    let head = stream.head.clone();
    match head.status {
        200 => {}
        503 | 504 => return Ok(ExportOutcome::Refused),
        _ => {
            let response = stream.complete().await;
            return Err(format!("an export: {response:?}"));
        }
    }
    let (lines, _) = stream.remaining().await;
    let region = head.header("x-cloudkv-region").to_owned();
    Ok(match parse(lines)? {
        Some(whole) => ExportOutcome::Complete(whole, region),
        None => ExportOutcome::Partial,
    })
}

/// Reads the lines of an export; `None` if it isn't whole.
///
/// # Errors
/// Returns what is wrong with an export, whole or not.
fn parse(mut lines: Vec<String>) -> Result<Option<BucketExport>, String> {
    let mut keys = BucketCopy::new();
    let mut bytes = 0;
    for (number, line) in lines.iter().enumerate() {
        let mut fields = parse_line(line)?;
        let is_last = number + 1 == lines.len();
        if fields.contains_key("end") && is_last {
            let count = |name: &str| fields.get(name).and_then(Value::as_u64);
            if (count("keys"), count("bytes")) != (Some(keys.len() as u64), Some(bytes)) {
                let found = keys.len();
                return Err(format!(
                    "an export of {found} keys, {bytes} bytes ends with {line}"
                ));
            }
            let since = fields.get("since").and_then(Value::as_str);
            let since = since.map(str::to_owned);
            lines.pop();
            return Ok(Some(BucketExport { keys, lines, since }));
        }
        if fields.contains_key("error") && is_last {
            return Ok(None);
        }
        let Some(Value::String(name)) = fields.remove("key") else {
            return Err(format!("an export has a line without a key: {line}"));
        };
        bytes += line.len() as u64 + 1;
        fields.insert("name".to_owned(), name.clone().into());
        if keys.insert(name, Value::Object(fields)).is_some() {
            return Err(format!("an export has a key twice: {line}"));
        }
    }
    Ok(None)
}

fn parse_line(line: &str) -> Result<serde_json::Map<String, Value>, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(format!("an export has a line that is no object: {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = r#"{"key":"a","value":"1","version":"v1"}"#;
    const SECOND: &str = r#"{"key":"b","value":"2","version":"v2"}"#;

    fn end(keys: u64, bytes: usize) -> String {
        format!(r#"{{"end":true,"keys":{keys},"bytes":{bytes},"since":"t"}}"#)
    }

    fn parse_all(lines: &[&str]) -> Result<Option<BucketExport>, String> {
        parse(lines.iter().map(|line| (*line).to_owned()).collect())
    }

    #[test]
    fn a_whole_export_has_its_keys_and_a_token() {
        let end = end(2, FIRST.len() + SECOND.len() + 2);
        let export = parse_all(&[FIRST, SECOND, &end]).unwrap().unwrap();
        assert_eq!(export.lines, [FIRST, SECOND]);
        assert_eq!(export.since.as_deref(), Some("t"));
        let first = serde_json::json!({"name": "a", "value": "1", "version": "v1"});
        assert_eq!(export.keys["a"], first);
        assert_eq!(export.keys.len(), 2);
        let without_token = r#"{"end":true,"keys":0,"bytes":0}"#;
        assert_eq!(parse_all(&[without_token]).unwrap().unwrap().since, None);
    }

    #[test]
    fn an_export_without_its_end_is_not_whole() {
        let error = r#"{"error":"unavailable","message":"no leader"}"#;
        for lines in [vec![], vec![FIRST], vec![FIRST, error]] {
            assert_eq!(parse_all(&lines), Ok(None), "{lines:?}");
        }
    }

    #[test]
    fn wrong_exports_are_found() {
        let length = FIRST.len() + 1;
        let (missing, short) = (end(2, length), end(1, length - 1));
        let (twice, right) = (end(2, 2 * length), end(1, length));
        for lines in [
            vec![FIRST, missing.as_str()],
            vec![FIRST, short.as_str()],
            vec![FIRST, FIRST, twice.as_str()],
            vec![right.as_str(), FIRST],
            vec!["[]"],
            vec!["no JSON"],
        ] {
            assert!(parse_all(&lines).is_err(), "{lines:?}");
        }
    }
}
