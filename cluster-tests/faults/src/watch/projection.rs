//! Comparison of some fields of keys: of those that an export, or an import, keeps.

use std::time::{Duration, Instant};

use serde_json::Value;

use cloudkv_test_harness::ApiClient;
use cloudkv_test_harness::watch::{BucketCopy, WatchOptions, describe_difference, list_bucket};

/// Fields that an export has of a key, beside its name.
pub(super) const EXPORTED_FIELDS: [&str; 6] = [
    "version",
    "value",
    "value_base64",
    "content_type",
    "metadata",
    "expires_at",
];

/// Fields that an import keeps of a line. Each key gets a new version.
pub(super) const IMPORTED_FIELDS: [&str; 5] = [
    "value",
    "value_base64",
    "content_type",
    "metadata",
    "expires_at",
];

/// Content type that lists tell of a key that was written without one.
const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// Time between two comparisons.
const COMPARE_INTERVAL: Duration = Duration::from_millis(200);

/// Returns keys with these fields alone. A line that has no type or no metadata leaves them out,
/// and a list doesn't.
pub(super) fn project(keys: &BucketCopy, fields: &[&str]) -> BucketCopy {
    let project_key = |key: &Value| {
        let kept = fields.iter().filter_map(|field| {
            let value = match (*field, key.get(field)) {
                (_, Some(value)) => value.clone(),
                ("content_type", None) => DEFAULT_CONTENT_TYPE.into(),
                ("metadata" | "expires_at", None) => Value::Null,
                (_, None) => return None,
            };
            Some(((*field).to_owned(), value))
        });
        Value::Object(kept.collect())
    };
    let keys = keys.iter();
    keys.map(|(name, key)| (name.clone(), project_key(key)))
        .collect()
}

/// Waits until these fields of all keys are those of the bucket, as this API lists it.
///
/// # Errors
/// Returns in what they differ when the time is over, or the error of `keys`.
pub(super) async fn wait_equal_fields(
    api: &ApiClient,
    options: &WatchOptions,
    fields: &[&str],
    limit: Duration,
    keys: impl Fn() -> Result<BucketCopy, String>,
) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let difference = match list_bucket(api, options).await {
            Ok(listed) => {
                describe_difference(&project(&keys()?, fields), &project(&listed, fields))
            }
            Err(response) => Some(format!("the bucket isn't listed: {response:?}")),
        };
        match difference {
            None => return Ok(()),
            Some(difference) if started.elapsed() >= limit => {
                return Err(format!("after {limit:?} {difference}"));
            }
            Some(_) => tokio::time::sleep(COMPARE_INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_fields_that_are_named_are_compared() {
        let key = |version: &str, value: &str, size: u64| {
            let fields = json!({"name": "k", "version": version, "value": value, "size": size,
                "metadata": null});
            BucketCopy::from([("k".to_owned(), fields)])
        };
        let exported = |keys: &BucketCopy| project(keys, &EXPORTED_FIELDS);
        let imported = |keys: &BucketCopy| project(keys, &IMPORTED_FIELDS);
        let first = key("1", "a", 1);
        let expected = json!({"version": "1", "value": "a", "metadata": null, "expires_at": null,
            "content_type": "application/octet-stream"});
        assert_eq!(exported(&first)["k"], expected);
        assert_eq!(exported(&first), exported(&key("1", "a", 2)));
        assert_ne!(exported(&first), exported(&key("2", "a", 1)));
        assert_eq!(imported(&first), imported(&key("2", "a", 1)));
        assert_ne!(imported(&first), imported(&key("1", "b", 1)));
    }
}
