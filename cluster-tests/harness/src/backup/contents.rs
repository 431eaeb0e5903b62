//! What is in buckets before a backup and after its restore.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::http::{ApiClient, Bucket};
use crate::load::incompressible;
use crate::transfer::export;

/// All live keys of a bucket by their names, with everything that their owner sees. Of a version,
/// the time alone: a restored key is of another region.
pub type KeyCopies = BTreeMap<String, Value>;

/// Returns the time of a version, which is comparable with others as text.
///
/// # Panics
/// Panics if the version has another form.
pub fn version_time(version: &str) -> &str {
    let parts = version.trim_matches('"').split_once('-');
    let (time, _) = parts.unwrap_or_else(|| panic!("no version: {version}"));
    assert_eq!(time.len(), 16, "{version}");
    time
}

/// Reads all live keys of a bucket, by its owner.
///
/// # Panics
/// Panics if they can't be read.
pub async fn copy_keys(api: &ApiClient, bucket: &Bucket) -> KeyCopies {
    let exported = export(api, bucket, "").await;
    let mut keys = KeyCopies::new();
    for mut line in exported.keys {
        let name = line["key"].as_str().expect("a key").to_owned();
        let version = line["version"].as_str().expect("a version");
        line["version"] = version_time(version).into();
        let other = keys.insert(name, line);
        assert_eq!(other, None, "a key is there once");
    }
    keys
}

/// Asserts that two copies have the same keys, and the same of each.
///
/// # Panics
/// Panics with the first key that differs.
#[track_caller]
pub fn assert_same_keys(actual: &KeyCopies, expected: &KeyCopies) {
    for (name, line) in expected {
        assert_eq!(actual.get(name), Some(line), "{name}");
    }
    let added = actual.keys().find(|name| !expected.contains_key(*name));
    assert_eq!(added, None, "a key too many");
}

/// Returns what the owner of a bucket has set, and when it was created: its entry of `GET /buckets`
/// without the counters.
async fn bucket_settings(api: &ApiClient, bucket: &Bucket) -> Value {
    let mut summary = api.bucket_summary(bucket).await;
    let fields = summary.as_object_mut().expect("an object");
    for counter in ["estimated_keys", "key_get_success", "key_get_failed"] {
        fields.remove(counter).expect("a counter");
    }
    summary
}

/// A bucket and all that is in it.
#[derive(Clone, Debug)]
pub struct SavedBucket {
    /// The bucket.
    pub bucket: Bucket,
    settings: Value,
    keys: KeyCopies,
}

impl SavedBucket {
    /// Reads a bucket.
    pub async fn read(api: &ApiClient, bucket: &Bucket) -> Self {
        Self {
            bucket: bucket.clone(),
            settings: bucket_settings(api, bucket).await,
            keys: copy_keys(api, bucket).await,
        }
    }

    /// Returns the number of its keys.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Returns the time of the latest version of its keys.
    pub fn last_version_time(&self) -> Option<&str> {
        let versions = self.keys.values();
        versions.filter_map(|line| line["version"].as_str()).max()
    }

    /// Asserts that a node shows the bucket and each of its keys as they were.
    pub async fn assert_restored(&self, api: &ApiClient) {
        assert_eq!(bucket_settings(api, &self.bucket).await, self.settings);
        assert_same_keys(&copy_keys(api, &self.bucket).await, &self.keys);
    }
}

/// Creates buckets of several accounts, with all kinds of keys, and returns what is in them.
///
/// # Panics
/// Panics if they can't be written.
pub async fn fill_buckets(api: &ApiClient) -> Vec<SavedBucket> {
    let settings = [("comment", "the \"first\" \u{1f511}"), ("plan", "pro")];
    let plain = api.create_bucket_with(&settings).await;
    api.put_numbered(&plain, "plain/", 80, "v").await;
    let ages = [("access", "protected"), ("default_ttl", "30d")];
    let protected = api.create_bucket_for(&plain.account, &ages).await;
    let large = api.create_bucket_with(&[("plan", "business")]).await;
    for number in 0..40 {
        let name = format!("ключ {number}");
        let put = api.put(&protected.key_path(&name), number.to_string());
        let put = put.api_key(&protected.account);
        put.header("x-cloudkv-metadata", r#"{"a":[1,"b"]}"#)
            .await
            .assert_status(200);
        let name = format!("{number}?ttl=1d");
        let value = incompressible::value(number, 10_000).to_vec();
        let put = api.put(&large.key_path(&name), value);
        put.header("content-type", "image/png")
            .await
            .assert_status(200);
    }
    // No other region lacks them, so tombstones aren't restored either.
    for number in 0..10 {
        let path = plain.key_path(&format!("plain/{number}"));
        api.delete(&path).await.assert_status(200);
    }
    let empty = api.create_bucket().await;
    let mut saved = vec![];
    for bucket in [plain, protected, large, empty] {
        saved.push(SavedBucket::read(api, &bucket).await);
    }
    let counts: Vec<usize> = saved.iter().map(SavedBucket::key_count).collect();
    assert_eq!(counts, [70, 40, 40, 0]);
    saved
}
