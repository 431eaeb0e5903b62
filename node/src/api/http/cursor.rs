//! Cursors of lists: opaque texts that name the position behind which a list goes on.
//!
//! A cursor continues the list that it came from and no other one, which might skip entries: it has
//! a hash of all that decides which entries a list has, and in which order.
//!
//! ```text
//! cursor = base64url(format u8 | hash of the list u64 | kind u8 | name)        (big-endian)
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use crate::api::errors::ApiError;

/// First byte of a cursor. A later form has another one.
const FORMAT: u8 = 1;

/// Hash of all that decides which entries a list has, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListHash(u64);

impl ListHash {
    /// Hashes the fields of a list's query.
    pub(crate) fn new(fields: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        for field in fields {
            bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        Self(xxh3_64(&bytes))
    }
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CursorKind {
    /// A key.
    Key,
    /// A common prefix of keys.
    Prefix,
    /// A bucket.
    Bucket,
}

impl CursorKind {
    const ALL: [Self; 3] = [Self::Key, Self::Prefix, Self::Bucket];

    fn byte(self) -> u8 {
        match self {
            Self::Key => 0,
            Self::Prefix => 1,
            Self::Bucket => 2,
        }
    }
}

/// Entry behind which a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Kind of the entry.
    pub kind: CursorKind,
    /// Name of the entry.
    pub name: Vec<u8>,
}

impl Cursor {
    /// Encodes a cursor of a list.
    pub(crate) fn encode(&self, list: ListHash) -> String {
        let mut bytes = Vec::with_capacity(10 + self.name.len());
        bytes.push(FORMAT);
        bytes.extend_from_slice(&list.0.to_be_bytes());
        bytes.push(self.kind.byte());
        bytes.extend_from_slice(&self.name);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes a cursor; 400 if it is none, or one of another list.
    pub(crate) fn decode(text: &str, list: ListHash) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let Some((of_list, cursor)) = bytes.as_deref().and_then(parse) else {
            return Err(malformed());
        };
        if of_list != list {
            let message = "cursor is of another list: repeat the parameters of the answer that it \
                           came from, of which only limit and values may differ, or follow its \
                           Link header";
            return Err(ApiError::invalid_cursor(message));
        }
        Ok(cursor)
    }
}

/// Returns the error of a text that is no cursor.
pub(crate) fn malformed() -> ApiError {
    let message = "cursor must be the cursor of an answer, unchanged; without one a list begins \
                   with its first entry";
    ApiError::invalid_cursor(message)
}

fn parse(bytes: &[u8]) -> Option<(ListHash, Cursor)> {
    let (format, rest) = bytes.split_first()?;
    let (list, rest) = rest.split_first_chunk()?;
    let (kind, name) = rest.split_first()?;
    if *format != FORMAT || name.is_empty() {
        return None;
    }
    let mut kinds = CursorKind::ALL.into_iter();
    let cursor = Cursor {
        kind: kinds.find(|known| known.byte() == *kind)?,
        name: name.to_vec(),
    };
    Some((ListHash(u64::from_be_bytes(*list)), cursor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn code(text: &str, list: ListHash) -> Result<Cursor, &'static str> {
        Cursor::decode(text, list).map_err(|error| error.code())
    }

    #[test]
    fn a_cursor_of_another_list_is_refused() {
        let (list, other) = (ListHash::new(&[b"a", b"bc"]), ListHash::new(&[b"ab", b"c"]));
        assert_ne!(list, other);
        let cursor = Cursor {
            kind: CursorKind::Key,
            name: b"k".to_vec(),
        };
        let text = cursor.encode(list);
        assert_eq!(code(&text, list), Ok(cursor));
        assert_eq!(code(&text, other), Err("invalid_cursor"));
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let list = ListHash(0x0102_0304_0506_0708);
        // A key `a`, and forms that differ in one thing each.
        let good = "AQECAwQFBgcIAGE";
        assert!(code(good, list).is_ok());
        for text in [
            "",
            "x",
            "AQECAwQFBgcIAA",
            "AgECAwQFBgcIAGE",
            "AQECAwQFBgcIB2E",
            "AQECAwQFBgcIAGE=",
            "AQECAwQFBgcIAGF",
            "AQEC AwQFBgcIAGE",
        ] {
            assert_eq!(code(text, list), Err("invalid_cursor"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn cursors_survive_a_round_trip(name in any::<Vec<u8>>(), kind in 0..3_usize, list: u64) {
            let cursor = Cursor { kind: CursorKind::ALL[kind], name };
            let text = cursor.encode(ListHash(list));
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            prop_assert!(text.bytes().all(is_plain));
            let decoded = code(&text, ListHash(list));
            if cursor.name.is_empty() {
                prop_assert_eq!(decoded, Err("invalid_cursor"));
            } else {
                prop_assert_eq!(decoded, Ok(cursor));
            }
        }

        #[test]
        fn never_panics(text in any::<String>(), list: u64) {
            let _ = code(&text, ListHash(list));
        }
    }
}
