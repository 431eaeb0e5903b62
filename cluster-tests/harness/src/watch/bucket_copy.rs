//! A copy of a bucket: what its JSON list says of each key.

use std::collections::BTreeMap;

use serde_json::Value;

/// Maximum number of keys that a difference names.
const MAX_NAMED_KEYS: usize = 5;

/// Keys by name, each with the fields of its entry in the JSON list of keys.
pub type BucketCopy = BTreeMap<String, Value>;

/// Describes what a copy has and a bucket hasn't, or the other way; `None` if they are equal.
pub fn describe_difference(copy: &BucketCopy, bucket: &BucketCopy) -> Option<String> {
    if copy == bucket {
        return None;
    }
    let names = copy
        .keys()
        .chain(bucket.keys().filter(|name| !copy.contains_key(*name)));
    let differing: Vec<&String> = names
        .filter(|name| copy.get(*name) != bucket.get(*name))
        .collect();
    let named = differing.iter().take(MAX_NAMED_KEYS);
    let lines = named.map(|name| {
        let [copied, stored] = [copy, bucket].map(|of| {
            let fields = of.get(*name).map(Value::to_string);
            fields.unwrap_or_else(|| "absent".to_owned())
        });
        format!("{name}: the copy has {copied}, the bucket {stored}")
    });
    let lines: Vec<String> = lines.collect();
    Some(format!(
        "{} keys differ:\n{}",
        differing.len(),
        lines.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_names_keys() {
        let copy = |keys: &[(&str, u64)]| -> BucketCopy {
            let keys = keys.iter();
            keys.map(|(name, size)| ((*name).to_owned(), json!({"size": size})))
                .collect()
        };
        let bucket = copy(&[("a", 1), ("b", 2), ("d", 1)]);
        assert_eq!(describe_difference(&bucket, &bucket.clone()), None);
        let other = copy(&[("a", 1), ("b", 3), ("c", 1)]);
        let difference = describe_difference(&other, &bucket).unwrap();
        let expected = "3 keys differ:\n\
            b: the copy has {\"size\":3}, the bucket {\"size\":2}\n\
            c: the copy has {\"size\":1}, the bucket absent\n\
            d: the copy has absent, the bucket {\"size\":1}";
        assert_eq!(difference, expected);
    }
}
