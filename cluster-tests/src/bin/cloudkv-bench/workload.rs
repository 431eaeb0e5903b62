//! What the clients ask for: key names, values that prove themselves, and request bytes.
//!
//! A value carries its seed in its first 8 bytes; the rest follows from key and seed. So
//! every value is random, differs between keys and between writes, and can be checked
//! later without a record of what was written.

/// Bytes of a value that hold its seed.
const SEED_BYTES: usize = 8;

/// A small, fast generator (SplitMix64): the client's own work must not be what is measured.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that always gives the same sequence for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, uniformly but for a bias under `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Fills `value` with the bytes of `key`'s value for `seed`.
pub fn fill_value(value: &mut [u8], key: u64, seed: u64) {
    let (head, rest) = value.split_at_mut(value.len().min(SEED_BYTES));
    head.copy_from_slice(&seed.to_le_bytes()[..head.len()]);
    let mut random = stream_of(key, seed);
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
}

/// Whether `value` is one that was written for `key`; with `seed` given, exactly that one.
pub fn value_is_valid(value: &[u8], key: u64, seed: Option<u64>) -> bool {
    let Some((head, rest)) = value.split_first_chunk::<SEED_BYTES>() else {
        return false;
    };
    let written_with = u64::from_le_bytes(*head);
    if seed.is_some_and(|seed| seed != written_with) {
        return false;
    }
    let mut random = stream_of(key, written_with);
    rest.chunks(8)
        .all(|chunk| chunk == &random.next().to_le_bytes()[..chunk.len()])
}

fn stream_of(key: u64, seed: u64) -> Random {
    Random::new(seed ^ key.wrapping_mul(0xd6e8_feb8_6659_fd93))
}

/// Which request is sent.
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
pub enum Operation {
    /// Reads a key.
    Get,
    /// Writes a key.
    Put,
}

impl Operation {
    /// The HTTP method.
    pub fn method(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }
}

/// Request bytes made once; each request copies them and patches key and value in place.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    digits: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

impl Template {
    /// Requests for `<prefix>k<digits><suffix>`; only a PUT has a body, of `value_size` bytes.
    pub fn new(
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
        }
    }

    /// Appends the request for `key` to `out`.
    pub fn append(&self, out: &mut Vec<u8>, key: u64, seed: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let request = &mut out[start..];
        write_digits(&mut request[self.digits.clone()], key);
        if !self.value.is_empty() {
            fill_value(&mut request[self.value.clone()], key, seed);
        }
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
    fn values_prove_themselves() {
        for size in [8, 100, 101, 4096] {
            let mut value = vec![0; size];
            fill_value(&mut value, 7, 42);
            assert!(value_is_valid(&value, 7, None), "{size}");
            assert!(value_is_valid(&value, 7, Some(42)));
            assert!(!value_is_valid(&value, 7, Some(43)));
        }
        let mut value = vec![0; 100];
        fill_value(&mut value, 7, 42);
        assert!(!value_is_valid(&value, 8, None), "another key's value");
        value[99] ^= 1;
        assert!(!value_is_valid(&value, 7, None), "a flipped bit");
        assert!(!value_is_valid(b"short", 7, None));
    }

    #[test]
    fn requests_are_well_formed() {
        let template = Template::new(Operation::Put, "h:1", ("/kv/b/", "?ttl=5"), 7, 10);
        let mut out = b"before".to_vec();
        template.append(&mut out, 1234, 1);
        let text = String::from_utf8_lossy(&out[..out.len() - 10]);
        let expected =
            "beforePUT /kv/b/k0001234?ttl=5 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 10\r\n\r\n";
        assert_eq!(text, expected);
        let get = Template::new(Operation::Get, "h:1", ("/", ""), 10, 100);
        out.clear();
        get.append(&mut out, 9_999_999_999, 1);
        assert_eq!(out, b"GET /k9999999999 HTTP/1.1\r\nHost: h:1\r\n\r\n");
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(1);
        assert!((0..10_000).all(|_| random.below(10) < 10));
    }
}
