//! Parses the path of a request: the bucket and the key.
//!
//! A key is everything behind `/kv/{bucket}/`, decoded once and otherwise untouched: `//`, `..`
//! and `%2F` are part of it. It is validated later ([`check_key`]), because errors about the bucket
//! or its owner come first.

use std::borrow::Cow;

use crate::api::errors::ApiError;
use cloudkv_common::server::percent;

/// Bucket and key in the path of a request below `/kv/`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KvTarget<'a> {
    /// Name of the bucket, decoded, not looked up.
    pub bucket: Cow<'a, [u8]>,
    /// Key, decoded, not validated; `None` for the bucket as a whole.
    pub key: Option<Cow<'a, [u8]>>,
}

impl<'a> KvTarget<'a> {
    /// Parses the rest of a path after `/kv/`.
    pub(crate) fn parse(rest: &'a str) -> Result<Self, ApiError> {
        let (bucket, key) = match rest.split_once('/') {
            Some((bucket, key)) => (bucket, Some(key)),
            None => (rest, None),
        };
        Ok(Self {
            bucket: decode(bucket)?,
            key: key.map(decode).transpose()?,
        })
    }
}

fn decode(text: &str) -> Result<Cow<'_, [u8]>, ApiError> {
    let decoded = percent::decode_path(text).map_err(|_| ApiError::invalid_path_escape())?;
    match &decoded {
        Cow::Borrowed(_) => Ok(decoded),
        Cow::Owned(bytes) if std::str::from_utf8(bytes).is_ok() => Ok(decoded),
        Cow::Owned(_) => Err(ApiError::path_not_utf8()),
    }
}

/// Checks that UTF-8 bytes are a valid key of at most `max` bytes.
pub(crate) fn check_key(key: &[u8], max: usize) -> Result<(), ApiError> {
    if key.is_empty() || key.len() > max {
        return Err(ApiError::invalid_key_size(max));
    }
    if has_control(key) {
        return Err(ApiError::control_character_in_key());
    }
    Ok(())
}

/// Returns whether UTF-8 text contains a control character: C0, DEL, or C1, which begins with 0xC2.
fn has_control(text: &[u8]) -> bool {
    if text.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return false;
    }
    text.iter().any(|byte| matches!(byte, 0x00..=0x1f | 0x7f))
        || text
            .windows(2)
            .any(|pair| pair[0] == 0xc2 && matches!(pair[1], 0x80..=0x9f))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn key_of(rest: &str) -> Vec<u8> {
        KvTarget::parse(rest).unwrap().key.unwrap().into_owned()
    }

    #[test]
    fn key_is_the_rest_of_the_path() {
        assert_eq!(key_of("a0123456789abc/folder/x.json"), b"folder/x.json");
        assert_eq!(key_of("b//..%2F/./"), b"/..//./");
        assert_eq!(key_of("b/a+b%20c"), b"a+b c");
        assert_eq!(key_of("b/"), b"");
        assert_eq!(KvTarget::parse("b").unwrap().key, None);
    }

    #[test]
    fn plain_paths_are_not_copied() {
        let target = KvTarget::parse("b/k").unwrap();
        assert!(matches!(target.key, Some(Cow::Borrowed(b"k"))));
    }

    #[test]
    fn bad_escapes_and_bad_utf8_are_bad_paths() {
        for rest in ["b/%", "b/%f", "b/%ff", "%zz/k", "b/%c3%28"] {
            assert_eq!(
                KvTarget::parse(rest).unwrap_err().code(),
                "invalid_path",
                "{rest}"
            );
        }
    }

    #[test]
    fn keys_are_bounded_and_without_control_characters() {
        check_key(b"k", 64).unwrap();
        check_key("ключ/é/日本".as_bytes(), 64).unwrap();
        check_key("\u{a0}".as_bytes(), 64).unwrap();
        check_key(&[b'k'; 64], 64).unwrap();
        for key in [
            "",
            "a\nb",
            "\u{7f}",
            "\u{80}",
            "\u{9f}",
            "\0",
            &"k".repeat(65),
        ] {
            assert_eq!(
                check_key(key.as_bytes(), 64).unwrap_err().code(),
                "invalid_key"
            );
        }
    }

    proptest! {
        #[test]
        fn control_characters_are_those_of_unicode(text in any::<String>()) {
            prop_assert_eq!(has_control(text.as_bytes()), text.chars().any(char::is_control));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = KvTarget::parse(&text);
        }
    }
}
