//! Requests of the clients: key names, self-verifying values, and request bytes.
//!
//! A value holds its seed in its first 8 bytes; the rest follows from key and seed. So every value
//! is random, differs between keys and between writes, and can be verified later without a record
//! of what was written.

/// Bytes of a value that hold its seed.
const SEED_BYTES: usize = 8;

/// A small, fast generator (SplitMix64): the client's own work must not be what is measured.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Creates a generator that always returns the same sequence for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, uniform except for a bias under `bound / 2^64`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Fills `value` with the bytes of `key`'s value for `seed`.
pub(crate) fn fill_value(value: &mut [u8], key: u64, seed: u64) {
    let (head, rest) = value.split_at_mut(value.len().min(SEED_BYTES));
    head.copy_from_slice(&seed.to_le_bytes()[..head.len()]);
    let mut random = value_stream(key, seed);
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
}

/// Returns whether `value` was written for `key`; with `seed` given, exactly with that seed.
pub(crate) fn is_valid_value(value: &[u8], key: u64, seed: Option<u64>) -> bool {
    let Some((head, rest)) = value.split_first_chunk::<SEED_BYTES>() else {
        return false;
    };
    let written_seed = u64::from_le_bytes(*head);
    if seed.is_some_and(|seed| seed != written_seed) {
        return false;
    }
    let mut random = value_stream(key, written_seed);
    rest.chunks(8)
        .all(|chunk| chunk == &random.next().to_le_bytes()[..chunk.len()])
}

fn value_stream(key: u64, seed: u64) -> Random {
    Random::new(seed ^ key.wrapping_mul(0xd6e8_feb8_6659_fd93))
}

/// Request to send.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Operation {
    /// Reads a key.
    Get,
    /// Writes a key.
    Put,
}

impl Operation {
    /// HTTP method.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }
}

/// API of the server.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    /// A key's value is read and written at its path.
    #[default]
    Paths,
    /// etcd's JSON gateway: POST, with keys and values in base64.
    Etcd,
}

/// Request bytes built once; each request copies them and patches key and value in place.
#[derive(Debug, Clone)]
pub(crate) struct RequestTemplate {
    bytes: Vec<u8>,
    digits: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
    /// Set if the value is written in base64.
    base64: bool,
}

impl RequestTemplate {
    /// Creates requests to etcd's JSON gateway, for a key whose base64 is `k<digits>`: with seven
    /// digits that is one. The base64 of a value is as random as its bytes would be.
    pub(crate) fn etcd(operation: Operation, host: &str, digits: usize, value_size: usize) -> Self {
        let mut body = b"{\"key\":\"k".to_vec();
        let first_digit = body.len();
        body.resize(first_digit + digits, b'0');
        body.push(b'"');
        let (path, value) = match operation {
            Operation::Get => ("/v3/kv/range", 0..0),
            Operation::Put => {
                body.extend_from_slice(b",\"value\":\"");
                let start = body.len();
                // Whole groups of four, and the letters of the last one or two bytes.
                let letters = (value_size * 4).div_ceil(3);
                body.resize(start + letters, b'A');
                body.resize(start + value_size.div_ceil(3) * 4, b'=');
                body.push(b'"');
                ("/v3/kv/put", start..start + letters)
            }
        };
        body.push(b'}');
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let shift =
            |range: std::ops::Range<usize>| range.start + head.len()..range.end + head.len();
        Self {
            digits: shift(first_digit..first_digit + digits),
            value: shift(value),
            base64: true,
            bytes: [head.as_bytes(), &body].concat(),
        }
    }

    /// Creates requests for `<prefix>k<digits><suffix>`; only a PUT has a body, of `value_size`
    /// bytes.
    pub(crate) fn new(
        operation: Operation,
        host: &str,
        (prefix, suffix): (&str, &str),
        digits: usize,
        value_size: usize,
    ) -> Self {
        let mut bytes = format!("{} {prefix}k", operation.method()).into_bytes();
        let first_digit = bytes.len();
        bytes.resize(first_digit + digits, b'0');
        bytes.extend_from_slice(format!("{suffix} HTTP/1.1\r\nHost: {host}\r\n").as_bytes());
        let body = match operation {
            Operation::Get => 0,
            Operation::Put => {
                bytes.extend_from_slice(format!("Content-Length: {value_size}\r\n").as_bytes());
                value_size
            }
        };
        bytes.extend_from_slice(b"\r\n");
        let head = bytes.len();
        bytes.resize(head + body, 0);
        Self {
            bytes,
            digits: first_digit..first_digit + digits,
            value: head..head + body,
            base64: false,
        }
    }

    /// Appends the request for `key` to `out`.
    pub(crate) fn append(&self, out: &mut Vec<u8>, key: u64, seed: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let request = &mut out[start..];
        write_digits(&mut request[self.digits.clone()], key);
        if !self.value.is_empty() {
            let value = &mut request[self.value.clone()];
            fill_value(value, key, seed);
            if self.base64 {
                to_base64_letters(value);
            }
        }
    }
}

/// Maps each byte to a letter of the base64 alphabet (RFC 4648).
fn to_base64_letters(bytes: &mut [u8]) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for byte in bytes {
        *byte = LETTERS[usize::from(*byte % 64)];
    }
}

/// Writes `number` in decimal with leading zeros.
fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_verify_themselves() {
        for size in [8, 100, 101, 4096] {
            let mut value = vec![0; size];
            fill_value(&mut value, 7, 42);
            assert!(is_valid_value(&value, 7, None), "{size}");
            assert!(is_valid_value(&value, 7, Some(42)));
            assert!(!is_valid_value(&value, 7, Some(43)));
        }
        let mut value = vec![0; 100];
        fill_value(&mut value, 7, 42);
        assert!(!is_valid_value(&value, 8, None), "another key's value");
        value[99] ^= 1;
        assert!(!is_valid_value(&value, 7, None), "a flipped bit");
        assert!(!is_valid_value(b"short", 7, None));
    }

    #[test]
    fn requests_are_well_formed() {
        let template = RequestTemplate::new(Operation::Put, "h:1", ("/kv/b/", "?ttl=5"), 7, 10);
        let mut out = b"before".to_vec();
        template.append(&mut out, 1234, 1);
        let text = String::from_utf8_lossy(&out[..out.len() - 10]);
        let expected =
            "beforePUT /kv/b/k0001234?ttl=5 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 10\r\n\r\n";
        assert_eq!(text, expected);
        let get = RequestTemplate::new(Operation::Get, "h:1", ("/", ""), 10, 100);
        out.clear();
        get.append(&mut out, 9_999_999_999, 1);
        assert_eq!(out, b"GET /k9999999999 HTTP/1.1\r\nHost: h:1\r\n\r\n");
    }

    #[test]
    fn etcd_requests_have_base64_of_the_right_length() {
        let template = RequestTemplate::etcd(Operation::Put, "h:1", 7, 100);
        let mut out = Vec::new();
        template.append(&mut out, 1234, 1);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /v3/kv/put HTTP/1.1\r\nHost: h:1"),
            "{head}"
        );
        assert!(
            head.ends_with(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["key"], "k0001234");
        let value = body["value"].as_str().unwrap();
        // 100 bytes: 33 groups, and one byte of two letters.
        assert_eq!(value.len(), 136);
        assert_eq!(value.trim_end_matches('=').len(), 134);
        let get = RequestTemplate::etcd(Operation::Get, "h:1", 7, 100);
        let mut out = Vec::new();
        get.append(&mut out, 7, 1);
        assert!(
            String::from_utf8(out)
                .unwrap()
                .ends_with("{\"key\":\"k0000007\"}")
        );
    }

    #[test]
    fn below_is_bounded() {
        let mut random = Random::new(1);
        assert!((0..10_000).all(|_| random.below(10) < 10));
    }
}
