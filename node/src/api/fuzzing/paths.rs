//! Fuzz target of paths.

use http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::refusal::check_refusal;
use crate::api::http::path::{KvTarget, check_key};
use crate::service::BucketId;

/// Maximum sizes of keys, in bytes.
const KEY_BYTES: [usize; 3] = [1, 64, 1024];

/// Parses a path after `/kv/`, and the path of a URI.
pub fn paths(data: &[u8]) {
    if let Ok(rest) = std::str::from_utf8(data) {
        check_path(rest);
    }
    if let Ok(uri) = Uri::try_from(data)
        && let Some(rest) = uri.path().strip_prefix("/kv/")
    {
        check_path(rest);
    }
}

/// Compares the parts of a path with those by another decoder.
pub(super) fn check_path(rest: &str) {
    let (bucket, key) = match rest.split_once('/') {
        Some((bucket, key)) => (bucket, Some(key)),
        None => (rest, None),
    };
    match KvTarget::parse(rest) {
        Ok(target) => {
            assert_eq!(&*target.bucket, decode(bucket));
            assert_eq!(target.key.as_deref(), key.map(decode).as_deref());
            check_target(&target);
        }
        Err(error) => {
            let parts = [Some(bucket), key];
            assert!(!parts.into_iter().flatten().all(is_valid), "{rest:?}");
            check_refusal(error);
        }
    }
}

fn decode(part: &str) -> Vec<u8> {
    percent_decode_str(part).collect()
}

/// Returns whether each `%` is followed by two digits, and the decoded part is UTF-8.
fn is_valid(part: &str) -> bool {
    let has_digits = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    part.split('%').skip(1).all(has_digits) && std::str::from_utf8(&decode(part)).is_ok()
}

fn check_target(target: &KvTarget<'_>) {
    let mut path = percent_encode(&target.bucket, NON_ALPHANUMERIC).to_string();
    if let Some(key) = &target.key {
        check_key_rules(key);
        path = format!("{path}/{}", percent_encode(key, NON_ALPHANUMERIC));
    }
    assert_eq!(KvTarget::parse(&path).ok().as_ref(), Some(target));
    if let Some(id) = BucketId::parse(&target.bucket) {
        assert_eq!(id.as_str().as_bytes(), &*target.bucket);
    }
}

fn check_key_rules(key: &[u8]) {
    let text = std::str::from_utf8(key);
    assert!(text.is_ok(), "a key isn't UTF-8");
    let has_control = text.is_ok_and(|text| text.chars().any(char::is_control));
    for max in KEY_BYTES {
        let is_valid = (1..=max).contains(&key.len()) && !has_control;
        match check_key(key, max) {
            Ok(()) => assert!(is_valid, "{key:?}"),
            Err(error) => {
                assert!(!is_valid, "{key:?}");
                check_refusal(error);
            }
        }
    }
}
