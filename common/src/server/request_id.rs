//! `X-Request-ID`: the client's own if it is valid, otherwise a generated one.
//!
//! Generated IDs look like UUIDs and are unique, not secret: 64 random bits of the process, the
//! number of the connection, the number of the request on it. So generating one costs neither
//! randomness nor an atomic that all threads share.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header that identifies a request in logs and reports.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of a client's ID.
const MAX_ID_BYTES: usize = 128;

/// Returns the client's ID, if it can be written to logs and headers as it is.
pub fn from_client(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(&X_REQUEST_ID)?;
    is_valid(id.as_bytes()).then(|| id.clone())
}

fn is_valid(id: &[u8]) -> bool {
    let visible = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'`');
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(visible)
}

/// Generates an ID for the `request`th request of the `connection`th connection of this process.
pub fn generate(connection: u32, request: u32) -> HeaderValue {
    let number =
        u128::from(process_number()) << 64 | u128::from(connection) << 32 | u128::from(request);
    HeaderValue::from_bytes(&format_uuid(number)).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

fn process_number() -> u64 {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    *PROCESS.get_or_init(|| {
        // Without random numbers IDs are less unique, which must not prevent serving.
        getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
    })
}

/// Formats 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
fn format_uuid(number: u128) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    /// Offsets of the digits of each byte.
    const OFFSETS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; 36];
    for (byte, offset) in number.to_be_bytes().into_iter().zip(OFFSETS) {
        text[offset] = HEX[usize::from(byte >> 4)];
        text[offset + 1] = HEX[usize::from(byte & 0xf)];
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn generated_ids_look_like_uuids_and_differ() {
        let text = format_uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(&text, b"01234567-89ab-cdef-0123-456789abcdef");
        let ids: HashSet<HeaderValue> = (0..100)
            .map(|number| generate(number / 10, number % 10))
            .collect();
        assert_eq!(ids.len(), 100);
    }

    #[test]
    fn a_clients_id_is_kept_if_valid() {
        let with = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(&X_REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            from_client(&headers)
        };
        assert_eq!(with(b"trace-7/3.a:b").unwrap(), "trace-7/3.a:b");
        assert_eq!(with(&[b'x'; 128]).unwrap().len(), 128);
        for id in [&b""[..], b"a b", b"a\"b", b"\xff", &[b'x'; 129]] {
            assert!(with(id).is_none());
        }
        assert!(from_client(&HeaderMap::new()).is_none());
    }
}
