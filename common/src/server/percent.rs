//! Strict percent-decoding, done exactly once.
//!
//! A decoder that passes invalid escapes through would let two spellings of a path name one key,
//! and a proxy in front could understand a request differently. So `%` must be followed by two
//! hexadecimal digits. Text without an escape, which is the common case, is borrowed and not
//! copied.

use std::borrow::Cow;

/// Error of a `%` that isn't followed by two hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("'%' must be followed by two hexadecimal digits")]
pub struct InvalidEscape;

/// Decodes a segment of a path: `+` stays a plus.
pub fn decode_path(text: &str) -> Result<Cow<'_, [u8]>, InvalidEscape> {
    if text.contains('%') {
        decode(text.as_bytes(), false).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(text.as_bytes()))
    }
}

/// Decodes a name or value of a query or an urlencoded form: `+` is a space.
pub fn decode_form(text: &str) -> Result<Cow<'_, [u8]>, InvalidEscape> {
    if text.contains(['%', '+']) {
        decode(text.as_bytes(), true).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(text.as_bytes()))
    }
}

fn decode(mut rest: &[u8], plus_is_space: bool) -> Result<Vec<u8>, InvalidEscape> {
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let (&[high, low], tail) = tail.split_first_chunk().ok_or(InvalidEscape)?;
                decoded.push(hex(high)? << 4 | hex(low)?);
                rest = tail;
            }
            b'+' if plus_is_space => decoded.push(b' '),
            other => decoded.push(other),
        }
    }
    Ok(decoded)
}

fn hex(digit: u8) -> Result<u8, InvalidEscape> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(InvalidEscape),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn plus_is_a_space_in_queries_only() {
        assert_eq!(decode_path("a+b").unwrap().as_ref(), b"a+b");
        assert_eq!(decode_form("a+b").unwrap().as_ref(), b"a b");
    }

    #[test]
    fn decodes_once() {
        assert_eq!(decode_path("%2525").unwrap().as_ref(), b"%25");
    }

    #[test]
    fn invalid_escapes_are_refused() {
        for text in ["%", "%2", "a%zz", "%%41", "%4g", "%+1"] {
            assert_eq!(decode_path(text), Err(InvalidEscape), "{text}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_percent_encoding_crate(bytes in any::<Vec<u8>>()) {
            let text = percent_encoding::percent_encode(&bytes, percent_encoding::NON_ALPHANUMERIC)
                .to_string();
            prop_assert_eq!(decode_path(&text).unwrap().into_owned(), bytes.clone());
            prop_assert_eq!(decode_form(&text).unwrap().into_owned(), bytes);
        }

        #[test]
        fn accepted_text_decodes_as_the_crate_decodes_it(text in "[a-zA-Z0-9%+/é]{0,20}") {
            if let Ok(decoded) = decode_path(&text) {
                let theirs: Vec<u8> = percent_encoding::percent_decode_str(&text).collect();
                prop_assert_eq!(decoded.as_ref(), theirs.as_slice());
            } else {
                prop_assert!(text.contains('%'));
            }
        }
    }
}
