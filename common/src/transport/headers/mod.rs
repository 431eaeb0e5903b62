//! Encoding of the headers of a user's request, and of its response, between router and node.
//!
//! All headers are one buffer: their count, then each one's name and value. Names and values of the
//! static table are sent as indexes, and need no parsing when received; other values share the
//! received buffer.
//!
//! ```text
//! headers = count header*
//! header  = name value
//! name    = byte: index in the static table | 0 length bytes
//! value   = 2 * index of a common value + 1 | 2 * length bytes
//! ```
//!
//! Counts, lengths and indexes of values are varints, as in Protocol Buffers.

mod static_table;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::encoding::{decode_varint, encode_varint};

pub use static_table::TABLE_VERSION;

use static_table::{StaticEntry, StaticTable};

/// Byte in place of an index, after which a name follows that the static table doesn't have.
const LITERAL_NAME: u8 = 0;
/// Maximum bytes of a header beside its name and value: a byte, and two lengths.
const MAX_FIELD_PREFIX_BYTES: usize = 12;

/// Encoded headers that can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decode headers: they are malformed, or too many")]
pub struct MalformedHeaders;

/// Encodes headers, except those for which `skip` returns true.
pub fn write_headers(headers: &HeaderMap, skip: impl Fn(&HeaderName) -> bool) -> Bytes {
    let size = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + MAX_FIELD_PREFIX_BYTES
    };
    let mut out =
        BytesMut::with_capacity(MAX_FIELD_PREFIX_BYTES + headers.iter().map(size).sum::<usize>());
    let written = || headers.iter().filter(|(name, _)| !skip(name));
    encode_varint(written().count() as u64, &mut out);
    let table = static_table::static_table();
    for (name, value) in written() {
        let entry = table.find(name);
        match entry {
            Some((index, _)) => out.put_u8(index),
            None => {
                let name = name.as_str().as_bytes();
                out.put_u8(LITERAL_NAME);
                encode_varint(name.len() as u64, &mut out);
                out.put_slice(name);
            }
        }
        match entry.and_then(|(_, entry)| entry.value_index(value)) {
            Some(index) => encode_varint(2 * index as u64 + 1, &mut out),
            None => {
                encode_varint(2 * value.len() as u64, &mut out);
                out.put_slice(value.as_bytes());
            }
        }
    }
    out.freeze()
}

/// Decodes headers into a map with capacity for `additional` ones.
///
/// # Errors
/// Fails if they are malformed, or more than a map can hold.
pub fn read_headers(bytes: &Bytes, additional: usize) -> Result<HeaderMap, MalformedHeaders> {
    let mut left = bytes.clone();
    let count = read_varint(&mut left)?;
    // Each takes two bytes at least: a claimed count reserves no memory.
    if count > left.len() / 2 {
        return Err(MalformedHeaders);
    }
    let mut headers =
        HeaderMap::try_with_capacity(count + additional).map_err(|_| MalformedHeaders)?;
    let table = static_table::static_table();
    for _ in 0..count {
        let (name, entry) = read_name(&mut left, table)?;
        let value = read_value(&mut left, entry)?;
        headers
            .try_append(name, value)
            .map_err(|_| MalformedHeaders)?;
    }
    left.is_empty().then_some(headers).ok_or(MalformedHeaders)
}

fn read_name<'a>(
    left: &mut Bytes,
    table: &'a StaticTable,
) -> Result<(HeaderName, Option<&'a StaticEntry>), MalformedHeaders> {
    match left.try_get_u8().map_err(|_| MalformedHeaders)? {
        LITERAL_NAME => {
            let length = read_varint(left)?;
            let name = HeaderName::from_bytes(&take_bytes(left, length)?);
            Ok((name.map_err(|_| MalformedHeaders)?, None))
        }
        index => {
            let entry = table.get(index).ok_or(MalformedHeaders)?;
            Ok((entry.name.clone(), Some(entry)))
        }
    }
}

fn read_value(
    left: &mut Bytes,
    entry: Option<&StaticEntry>,
) -> Result<HeaderValue, MalformedHeaders> {
    let number = read_varint(left)?;
    if number % 2 == 1 {
        let value = entry.and_then(|entry| entry.values.get(number / 2));
        return value.cloned().ok_or(MalformedHeaders);
    }
    HeaderValue::from_maybe_shared(take_bytes(left, number / 2)?).map_err(|_| MalformedHeaders)
}

fn read_varint(left: &mut Bytes) -> Result<usize, MalformedHeaders> {
    let number = decode_varint(left).map_err(|_| MalformedHeaders)?;
    usize::try_from(number).map_err(|_| MalformedHeaders)
}

fn take_bytes(left: &mut Bytes, length: usize) -> Result<Bytes, MalformedHeaders> {
    if length > left.len() {
        return Err(MalformedHeaders);
    }
    Ok(left.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn literal_header(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![LITERAL_NAME];
        encode_varint(name.len() as u64, &mut out);
        out.extend_from_slice(name);
        encode_varint(2 * value.len() as u64, &mut out);
        out.extend_from_slice(value);
        out
    }

    fn encoded(count: u8, header: &[u8]) -> Bytes {
        [&[count], header].concat().into()
    }

    #[test]
    fn more_headers_than_a_map_holds_are_refused() {
        let mut bytes = Vec::new();
        encode_varint(40_000, &mut bytes);
        bytes.extend_from_slice(&literal_header(b"a", b"b").repeat(40_000));
        assert_eq!(read_headers(&bytes.into(), 4), Err(MalformedHeaders));
    }

    #[test]
    fn headers_survive_a_round_trip() {
        let mut headers = HeaderMap::new();
        headers.append("etag", HeaderValue::from_static("\"a:b\""));
        headers.append("x-empty", HeaderValue::from_static(""));
        headers.append("x-twice", HeaderValue::from_static("1"));
        headers.append("x-twice", HeaderValue::from_bytes(b"\xff\t2").unwrap());
        headers.append("cache-control", HeaderValue::from_static("no-cache"));
        headers.append("x-request-id", HeaderValue::from_static("7"));
        let bytes = write_headers(&headers, |_| false);
        assert_eq!(read_headers(&bytes, 2), Ok(headers.clone()));
        let fewer = write_headers(&headers, |name| name == "etag");
        headers.remove("etag");
        assert_eq!(read_headers(&fewer, 0), Ok(headers));
    }

    #[test]
    fn headers_of_the_static_table_take_few_bytes() {
        let mut headers = HeaderMap::new();
        headers.append("access-control-allow-origin", HeaderValue::from_static("*"));
        assert_eq!(write_headers(&headers, |_| false).len(), 3);
    }

    #[test]
    fn malformed_headers_are_refused() {
        let good = literal_header(b"a", b"b");
        assert_eq!(read_headers(&encoded(1, &good), 0).unwrap()["a"], "b");
        let malformed: [(u8, Vec<u8>); 9] = [
            (0, good.clone()),
            (2, good.clone()),
            (1, literal_header(b"", b"b")),
            (1, literal_header(b"a b", b"c")),
            (1, literal_header(b"a", b"\x01")),
            // No such name; no such value of a name with one, of one with none, and of a literal
            // name.
            (1, vec![255, 0]),
            (1, vec![3, 3]),
            (1, vec![1, 1]),
            (1, vec![LITERAL_NAME, 1, b'a', 1]),
        ];
        for (count, header) in malformed {
            assert_eq!(
                read_headers(&encoded(count, &header), 0),
                Err(MalformedHeaders),
                "{header:?}"
            );
        }
        assert_eq!(read_headers(&Bytes::new(), 0), Err(MalformedHeaders));
        for cut in 1..good.len() {
            let part = good.get(..cut).unwrap().to_vec();
            assert_eq!(
                read_headers(&encoded(1, &part), 0),
                Err(MalformedHeaders),
                "{cut}"
            );
        }
    }

    /// Every release of version 2 must read these bytes so.
    #[test]
    fn bytes_of_version_2_stay_readable() {
        // A name and a value of the table, a name of it, and neither.
        let bytes = b"\x03\x03\x01\x01\x04id\x00\x01a\x02b";
        let headers = read_headers(&Bytes::from_static(bytes), 0).unwrap();
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["x-request-id"], "id");
        assert_eq!(headers["a"], "b");
        assert_eq!(write_headers(&headers, |_| false), bytes.as_slice());
    }

    fn any_headers() -> impl Strategy<Value = HeaderMap> {
        let known = (1..=50_u8).prop_map(|index| static_table::static_table().get(index));
        let known =
            known.prop_filter_map("an index", |entry| entry.map(|entry| entry.name.clone()));
        let other = "[a-z-]{1,9}".prop_filter_map("a name", |name| name.parse().ok());
        let common = prop::sample::select(vec!["*", "no-cache", "http", "0", "application/json"]);
        let value = prop_oneof![common.prop_map(str::to_owned), "[ -~]{0,40}"];
        let value = value.prop_filter_map("a value", |value| HeaderValue::from_str(&value).ok());
        prop::collection::vec((prop_oneof![known, other], value), 0..20).prop_map(|lines| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value);
            }
            headers
        })
    }

    proptest! {
        #[test]
        fn any_headers_survive_a_round_trip(headers in any_headers(), additional in 0_usize..20) {
            let bytes = write_headers(&headers, |_| false);
            prop_assert_eq!(read_headers(&bytes, additional), Ok(headers));
        }

        #[test]
        fn damaged_bytes_are_refused_or_decoded(
            headers in any_headers(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<bool>(),
        ) {
            let mut bytes = write_headers(&headers, |_| false).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(headers) = read_headers(&bytes.into(), 0) {
                let again = write_headers(&headers, |_| false);
                prop_assert_eq!(read_headers(&again, 0), Ok(headers));
            }
        }
    }
}
