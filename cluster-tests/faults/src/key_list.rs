//! Lists with values, which read all keys of a prefix at once.
//!
//! A list is no snapshot, but each of its keys is read while it is made, and so is each key of the
//! prefix that it doesn't have.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::Answer;
use super::checker::{ABSENT, Content};
use super::history::KeyName;
use cloudkv_test_harness::{Bucket, RawRequest};

/// Keys of a list.
#[derive(Clone, Debug)]
pub(super) struct KeyList {
    /// Prefix of their names.
    pub prefix: String,
    /// All keys that clients use and whose names have the prefix.
    pub keys: Vec<KeyName>,
}

/// A key as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedKey {
    pub key: KeyName,
    pub content: Content,
    pub etag: Option<Box<str>>,
}

impl KeyList {
    /// Builds the request of the list.
    pub(super) fn build_request(&self, bucket: &Bucket) -> RawRequest {
        let path = format!(
            "{}?prefix={}&values=true",
            bucket.listing_path(),
            self.prefix
        );
        RawRequest::new("GET", &path).header("Accept", "application/json")
    }

    /// Returns the keys of a list without any.
    pub(super) fn all_absent(&self) -> Vec<ListedKey> {
        self.keys.iter().copied().map(absent).collect()
    }

    /// Reads the keys of a list; `None` if no client should get it. One that ends early shows
    /// nothing of the keys that it doesn't have.
    pub(super) fn parse(&self, list: &Value) -> Option<Vec<ListedKey>> {
        let keys = self.keys.iter().map(|key| (key.to_string(), *key));
        let mut unlisted: BTreeMap<String, KeyName> = keys.collect();
        let mut listed = vec![];
        for entry in list["keys"].as_array()? {
            // Neither a key that nobody wrote nor one that is listed already.
            let key = unlisted.remove(entry["name"].as_str()?)?;
            let answer = Answer::of_listed(entry);
            listed.push(ListedKey {
                key,
                content: answer.content?,
                etag: answer.etag,
            });
        }
        if list["list_complete"].as_bool()? {
            listed.extend(unlisted.into_values().map(absent));
        }
        Some(listed)
    }
}

fn absent(key: KeyName) -> ListedKey {
    ListedKey {
        key,
        content: ABSENT,
        etag: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_reads_the_keys_that_it_has_and_those_that_it_lacks() {
        let key = |number| KeyName {
            generation: 1,
            number,
        };
        let list = KeyList {
            prefix: "g1/k1".into(),
            keys: vec![key(1), key(10), key(11)],
        };
        let entry = json!({"name": "g1/k10", "version": "0a-1", "value": "7", "metadata": null});
        let parse = |keys: Value, is_complete: bool| {
            list.parse(&json!({"keys": keys, "list_complete": is_complete}))
        };
        let listed = ListedKey {
            key: key(10),
            content: Content::plain(7),
            etag: Some("\"0a-1\"".into()),
        };
        let all = vec![listed.clone(), absent(key(1)), absent(key(11))];
        assert_eq!(parse(json!([entry]), true), Some(all));
        assert_eq!(parse(json!([entry]), false), Some(vec![listed]));
        assert_eq!(parse(json!([entry, entry]), true), None);
        let without_value = json!({"name": "g1/k1", "version": "0a-1"});
        let unknown = json!({"name": "g1/k2", "version": "0a-1", "value": "7"});
        for entry in [without_value, unknown] {
            assert_eq!(parse(json!([entry]), true), None);
        }
        assert_eq!(list.all_absent().len(), 3);
    }
}
