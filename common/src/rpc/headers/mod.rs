//! Headers of a user's request, and of its answer, as they travel between router and node.
//!
//! All of them are one piece of memory: how many they are, then each one's name and value. What is
//! [`known`] goes as its number, and needs no parsing when it comes; other values share their
//! memory with what came in.
//!
//! ```text
//! headers = count header*
//! header  = (byte: place of a known name | 0 length name) (2 * number of a known value + 1 | 2 * length value)
//! ```
//!
//! Counts, lengths and numbers are varints, as in Protocol Buffers.

mod known;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::encoding::{decode_varint, encode_varint};

pub use known::VERSION;

use known::{Known, Table};

/// Says that a name follows that isn't known.
const SPELT: u8 = 0;
/// The longest head of a header: a byte, and the lengths of a name and a value.
const HEAD: usize = 12;

/// Headers that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what should be headers is none, or there are too many")]
pub struct NoHeaders;

/// Writes headers, those left out for which `skip` holds.
pub fn write_headers(headers: &HeaderMap, skip: impl Fn(&HeaderName) -> bool) -> Bytes {
    let size =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + HEAD;
    let mut out = BytesMut::with_capacity(HEAD + headers.iter().map(size).sum::<usize>());
    let written = || headers.iter().filter(|(name, _)| !skip(name));
    encode_varint(written().count() as u64, &mut out);
    let table = known::table();
    for (name, value) in written() {
        let found = table.find(name);
        match found {
            Some((place, _)) => out.put_u8(place),
            None => {
                let name = name.as_str().as_bytes();
                out.put_u8(SPELT);
                encode_varint(name.len() as u64, &mut out);
                out.put_slice(name);
            }
        }
        match found.and_then(|(_, known)| known.number_of(value)) {
            Some(number) => encode_varint(2 * number as u64 + 1, &mut out),
            None => {
                encode_varint(2 * value.len() as u64, &mut out);
                out.put_slice(value.as_bytes());
            }
        }
    }
    out.freeze()
}

/// Reads headers, with room for `more`.
pub fn read_headers(bytes: &Bytes, more: usize) -> Result<HeaderMap, NoHeaders> {
    let mut left = bytes.clone();
    let count = varint(&mut left)?;
    // Each takes two bytes at least: what is only claimed takes no memory.
    if count > left.len() / 2 {
        return Err(NoHeaders);
    }
    let mut headers = HeaderMap::try_with_capacity(count + more).map_err(|_| NoHeaders)?;
    let table = known::table();
    for _ in 0..count {
        let (name, known) = read_name(&mut left, table)?;
        let value = read_value(&mut left, known)?;
        headers.try_append(name, value).map_err(|_| NoHeaders)?;
    }
    left.is_empty().then_some(headers).ok_or(NoHeaders)
}

fn read_name<'a>(
    left: &mut Bytes,
    table: &'a Table,
) -> Result<(HeaderName, Option<&'a Known>), NoHeaders> {
    match left.try_get_u8().map_err(|_| NoHeaders)? {
        SPELT => {
            let length = varint(left)?;
            let name = HeaderName::from_bytes(&take(left, length)?);
            Ok((name.map_err(|_| NoHeaders)?, None))
        }
        place => {
            let known = table.at(place).ok_or(NoHeaders)?;
            Ok((known.name.clone(), Some(known)))
        }
    }
}

fn read_value(left: &mut Bytes, known: Option<&Known>) -> Result<HeaderValue, NoHeaders> {
    let said = varint(left)?;
    if said % 2 == 1 {
        let value = known.and_then(|known| known.values.get(said / 2));
        return value.cloned().ok_or(NoHeaders);
    }
    HeaderValue::from_maybe_shared(take(left, said / 2)?).map_err(|_| NoHeaders)
}

fn varint(left: &mut Bytes) -> Result<usize, NoHeaders> {
    let number = decode_varint(left).map_err(|_| NoHeaders)?;
    usize::try_from(number).map_err(|_| NoHeaders)
}

fn take(left: &mut Bytes, length: usize) -> Result<Bytes, NoHeaders> {
    if length > left.len() {
        return Err(NoHeaders);
    }
    Ok(left.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spelt(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![SPELT];
        encode_varint(name.len() as u64, &mut out);
        out.extend_from_slice(name);
        encode_varint(2 * value.len() as u64, &mut out);
        out.extend_from_slice(value);
        out
    }

    fn some(count: u8, header: &[u8]) -> Bytes {
        [&[count], header].concat().into()
    }

    #[test]
    fn more_headers_than_a_map_holds_are_refused() {
        let mut bytes = Vec::new();
        encode_varint(40_000, &mut bytes);
        bytes.extend_from_slice(&spelt(b"a", b"b").repeat(40_000));
        assert_eq!(read_headers(&bytes.into(), 4), Err(NoHeaders));
    }

    #[test]
    fn what_is_written_reads_back() {
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
    fn what_is_known_takes_little() {
        let mut headers = HeaderMap::new();
        headers.append("access-control-allow-origin", HeaderValue::from_static("*"));
        assert_eq!(write_headers(&headers, |_| false).len(), 3);
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = spelt(b"a", b"b");
        assert_eq!(read_headers(&some(1, &good), 0).unwrap()["a"], "b");
        let none: [(u8, Vec<u8>); 9] = [
            (0, good.clone()),
            (2, good.clone()),
            (1, spelt(b"", b"b")),
            (1, spelt(b"a b", b"c")),
            (1, spelt(b"a", b"\x01")),
            // No such name; no such value of a name with one, with none, and of one that isn't known.
            (1, vec![255, 0]),
            (1, vec![3, 3]),
            (1, vec![1, 1]),
            (1, vec![SPELT, 1, b'a', 1]),
        ];
        for (count, header) in none {
            assert_eq!(
                read_headers(&some(count, &header), 0),
                Err(NoHeaders),
                "{header:?}"
            );
        }
        assert_eq!(read_headers(&Bytes::new(), 0), Err(NoHeaders));
        for cut in 1..good.len() {
            let part = good.get(..cut).unwrap().to_vec();
            assert_eq!(read_headers(&some(1, &part), 0), Err(NoHeaders), "{cut}");
        }
    }

    /// As every release of version 1 must read them.
    #[test]
    fn bytes_of_version_1_read_as_ever() {
        // A name and a value that are known, a name that is, and neither.
        let bytes = b"\x03\x03\x01\x01\x04id\x00\x01a\x02b";
        let headers = read_headers(&Bytes::from_static(bytes), 0).unwrap();
        assert_eq!(headers.len(), 3);
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["x-request-id"], "id");
        assert_eq!(headers["a"], "b");
        assert_eq!(write_headers(&headers, |_| false), bytes.as_slice());
    }

    fn some_headers() -> impl Strategy<Value = HeaderMap> {
        let known = (1..=50_u8).prop_map(|place| known::table().at(place));
        let known = known.prop_filter_map("a place", |known| known.map(|known| known.name.clone()));
        let other = "[a-z-]{1,9}".prop_filter_map("a name", |name| name.parse().ok());
        let often = prop::sample::select(vec!["*", "no-cache", "http", "0", "application/json"]);
        let value = prop_oneof![often.prop_map(str::to_owned), "[ -~]{0,40}"];
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
        fn all_headers_come_as_they_went(headers in some_headers(), more in 0_usize..20) {
            let bytes = write_headers(&headers, |_| false);
            prop_assert_eq!(read_headers(&bytes, more), Ok(headers));
        }

        #[test]
        fn damaged_bytes_are_refused_or_read(
            headers in some_headers(),
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
