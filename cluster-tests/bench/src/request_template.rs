//! Requests as bytes: built once, with places for what differs between them.

use crate::workload::{Operation, fill_value};
use std::ops::Range;

/// Request bytes built once; each request copies them and patches keys and values in place.
#[derive(Debug, Clone)]
pub(crate) struct RequestTemplate {
    bytes: Vec<u8>,
    /// Places of the keys of a request: one, or as many as a batch has puts.
    keys: Vec<KeyPlace>,
    /// Set if values are letters of base64 instead of any bytes.
    base64: bool,
}

/// Places of a key's digits and of its value, which is empty in a GET.
#[derive(Debug, Clone)]
struct KeyPlace {
    digits: Range<usize>,
    value: Range<usize>,
}

impl KeyPlace {
    fn shifted(self, by: usize) -> Self {
        let shift = |range: Range<usize>| range.start + by..range.end + by;
        Self {
            digits: shift(self.digits),
            value: shift(self.value),
        }
    }
}

impl RequestTemplate {
    /// Creates requests to etcd's JSON gateway, for a key whose base64 is `k<digits>`: with seven
    /// digits that is one. The base64 of a value is as random as its bytes would be.
    pub(crate) fn etcd(operation: Operation, host: &str, digits: usize, value_size: usize) -> Self {
        let mut body = b"{\"key\":\"k".to_vec();
        let digits = append_space(&mut body, digits, b'0');
        body.push(b'"');
        let (path, value) = match operation {
            Operation::Get => ("/v3/kv/range", 0..0),
            Operation::Put => {
                body.extend_from_slice(b",\"value\":\"");
                // Whole groups of four, and the letters of the last one or two bytes.
                let letters = (value_size * 4).div_ceil(3);
                let value = append_space(&mut body, letters, b'A');
                body.resize(value.start + value_size.div_ceil(3) * 4, b'=');
                body.push(b'"');
                ("/v3/kv/put", value)
            }
        };
        body.push(b'}');
        Self::post(path, host, "", &body, vec![KeyPlace { digits, value }])
    }

    /// Creates batches of puts for `path`, with values of `value_size` letters.
    pub(crate) fn batch(
        host: &str,
        path: &str,
        digits: usize,
        value_size: usize,
        batch_size: usize,
    ) -> Self {
        let mut body = Vec::new();
        let keys = (0..batch_size).map(|_| {
            body.extend_from_slice(b"{\"op\":\"put\",\"key\":\"k");
            let digits = append_space(&mut body, digits, b'0');
            body.extend_from_slice(b"\",\"value\":\"");
            let value = append_space(&mut body, value_size, b'A');
            body.extend_from_slice(b"\"}\n");
            KeyPlace { digits, value }
        });
        let keys = keys.collect();
        let headers = "Content-Type: application/x-ndjson\r\n";
        Self::post(path, host, headers, &body, keys)
    }

    /// Creates POSTs of a body with these places in it.
    fn post(path: &str, host: &str, headers: &str, body: &[u8], keys: Vec<KeyPlace>) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let keys = keys.into_iter().map(|key| key.shifted(head.len()));
        Self {
            keys: keys.collect(),
            base64: true,
            bytes: [head.as_bytes(), body].concat(),
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
        let digits = append_space(&mut bytes, digits, b'0');
        bytes.extend_from_slice(format!("{suffix} HTTP/1.1\r\nHost: {host}\r\n").as_bytes());
        let body = match operation {
            Operation::Get => 0,
            Operation::Put => {
                bytes.extend_from_slice(format!("Content-Length: {value_size}\r\n").as_bytes());
                value_size
            }
        };
        bytes.extend_from_slice(b"\r\n");
        let value = append_space(&mut bytes, body, 0);
        Self {
            bytes,
            keys: vec![KeyPlace { digits, value }],
            base64: false,
        }
    }

    /// Makes values consist of letters, as those in batches do.
    pub(crate) fn with_letters(self) -> Self {
        Self {
            base64: true,
            ..self
        }
    }

    /// Appends request `number` to `out`: it has the key of that number, or in batches of 100 those
    /// from `100 * number` on.
    pub(crate) fn append(&self, out: &mut Vec<u8>, number: u64, seed: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let request = &mut out[start..];
        let first_key = number * self.keys.len() as u64;
        for (key, place) in (first_key..).zip(&self.keys) {
            write_digits(&mut request[place.digits.clone()], key);
            let value = &mut request[place.value.clone()];
            if value.is_empty() {
                continue;
            }
            fill_value(value, key, seed);
            if self.base64 {
                to_base64_letters(value);
            }
        }
    }
}

/// Appends `count` bytes, to be replaced in each request, and returns their range.
fn append_space(bytes: &mut Vec<u8>, count: usize, filler: u8) -> Range<usize> {
    let start = bytes.len();
    bytes.resize(start + count, filler);
    start..start + count
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
    fn batches_have_a_put_on_each_line() {
        let template = RequestTemplate::batch("h:1", "/kv/b", 7, 100, 3);
        let mut out = Vec::new();
        template.append(&mut out, 4, 1);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let expected = format!(
            "POST /kv/b HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {}",
            body.len()
        );
        assert_eq!(head, expected);
        let puts: Vec<serde_json::Value> = body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let keys: Vec<_> = puts.iter().map(|put| &put["key"]).collect();
        assert_eq!(keys, ["k0000012", "k0000013", "k0000014"]);
        assert!(puts.iter().all(|put| put["op"] == "put"));
        let values: Vec<_> = puts
            .iter()
            .map(|put| put["value"].as_str().unwrap())
            .collect();
        assert!(values.iter().all(|value| value.len() == 100));
        assert_ne!(values[0], values[1]);
    }

    #[test]
    fn a_single_put_of_letters_has_the_value_of_a_batch() {
        let single = RequestTemplate::new(Operation::Put, "h:1", ("/kv/b/", ""), 7, 100);
        let (mut put, mut batch) = (Vec::new(), Vec::new());
        single.with_letters().append(&mut put, 12, 1);
        RequestTemplate::batch("h:1", "/kv/b", 7, 100, 3).append(&mut batch, 4, 1);
        let value = std::str::from_utf8(&put[put.len() - 100..]).unwrap();
        assert!(std::str::from_utf8(&batch).unwrap().contains(value));
    }
}
