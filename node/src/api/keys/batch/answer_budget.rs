//! Bounds the answer to a batch.
//!
//! ```text
//!   all lines:    key + MAX_LINE_BYTES       known beforehand, bounded by the request's limits
//!   with values:  the same again + value + metadata + content type        at most `limit`
//! ```

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use cloudkv_common::server::MemoryBudget;

use crate::service::{StoredValue, ValueAdmission, ValueBudget};

/// Maximum size of an answer that has values, in bytes. Without them it may be larger, if the
/// request's keys are: at most 16 MiB, as its body, and 10,000 times [`MAX_LINE_BYTES`].
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Maximum size of the lines with values in one answer, in bytes.
const MAX_VALUE_LINES_BYTES: usize = 8 << 20;
/// Maximum size of a line without its key, value, metadata and content type, in bytes: that of an
/// error with the longest message.
pub(super) const MAX_LINE_BYTES: usize = 320;

/// Budget of the lines with values in one answer. They take their share of the memory for answers,
/// which the answer itself takes once it is complete.
pub(super) struct AnswerBudget<'a> {
    memory: &'a MemoryBudget,
    client: IpAddr,
    /// Maximum number of bytes that are admitted.
    limit: usize,
    /// Bytes that were admitted, as they are in the answer.
    bytes: AtomicUsize,
}

impl<'a> AnswerBudget<'a> {
    /// Creates the budget of an answer to `client` that has lines with these keys.
    pub(super) fn new<'k>(
        memory: &'a MemoryBudget,
        client: IpAddr,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Self {
        let lines: usize = keys.map(|key| MAX_LINE_BYTES + text_bytes(key)).sum();
        Self {
            memory,
            client,
            limit: MAX_ANSWER_BYTES
                .saturating_sub(lines)
                .min(MAX_VALUE_LINES_BYTES),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Returns the maximum size of the lines with values.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the size of the lines with the admitted values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl ValueBudget for AnswerBudget<'_> {
    fn admit(&self, key: &[u8], value: &StoredValue) -> ValueAdmission {
        let bytes = line_bytes(key, value);
        let add = |used: usize| Some(used + bytes).filter(|used| *used <= self.limit);
        let added = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        if added.is_err() {
            return ValueAdmission::TooLarge;
        }
        if !self.memory.try_acquire(Some(self.client), bytes) {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return ValueAdmission::Overloaded;
        }
        ValueAdmission::Admitted
    }
}

impl Drop for AnswerBudget<'_> {
    fn drop(&mut self) {
        self.memory
            .release(Some(self.client), *self.bytes.get_mut());
    }
}

/// Returns the maximum size of the line with a value.
fn line_bytes(key: &[u8], stored: &StoredValue) -> usize {
    let content_type = String::from_utf8_lossy(&stored.content_type);
    MAX_LINE_BYTES
        + text_bytes(key)
        + value_bytes(&stored.value)
        + stored.metadata.len()
        + text_bytes(content_type.as_bytes())
}

/// Returns the size of a value in JSON: of text with escapes, or base64.
fn value_bytes(value: &[u8]) -> usize {
    match std::str::from_utf8(value) {
        Ok(_) => text_bytes(value),
        Err(_) => value.len().div_ceil(3) * 4,
    }
}

/// Returns the size of text in JSON, with escapes.
fn text_bytes(text: &[u8]) -> usize {
    let escapes = text.iter().map(|byte| match byte {
        b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 1,
        0..=0x1f => 5,
        _ => 0,
    });
    text.len() + escapes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::service::Version;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A value whose line takes so many bytes.
    fn stored(line_bytes: usize) -> StoredValue {
        StoredValue {
            value: Bytes::from(vec![b'v'; line_bytes - MAX_LINE_BYTES - KEY.len()]),
            content_type: Bytes::new(),
            version: Version::default(),
            expires_at: None,
            metadata: Bytes::new(),
        }
    }

    const KEY: &[u8] = b"k";

    fn admit(answer: &AnswerBudget<'_>, line_bytes: usize) -> ValueAdmission {
        answer.admit(KEY, &stored(line_bytes))
    }

    #[test]
    fn values_fit_the_answer_and_the_memory_for_answers() {
        const HALF: usize = MAX_VALUE_LINES_BYTES / 2;
        let memory = MemoryBudget::new(2 * MAX_VALUE_LINES_BYTES + 2 * HALF);
        let [one, two] = [1, 2].map(|number| IpAddr::from([127, 0, 0, number]));
        let answer_to = |client| AnswerBudget::new(&memory, client, std::iter::once(KEY));
        let answer = answer_to(one);
        assert_eq!(answer.limit(), MAX_VALUE_LINES_BYTES);
        assert_eq!(admit(&answer, HALF), ValueAdmission::Admitted);
        assert_eq!(admit(&answer, HALF), ValueAdmission::Admitted);
        assert_eq!(admit(&answer, 400), ValueAdmission::TooLarge);
        assert_eq!(answer.bytes(), MAX_VALUE_LINES_BYTES);
        // One client gets half of the memory.
        let second = answer_to(one);
        assert_eq!(admit(&second, HALF + 1), ValueAdmission::Overloaded);
        assert_eq!(admit(&second, HALF), ValueAdmission::Admitted);
        let other = answer_to(two);
        assert_eq!(admit(&other, 2 * HALF), ValueAdmission::Admitted);
        drop((answer, second, other));
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn keys_metadata_and_content_types_are_counted() {
        let memory = MemoryBudget::new(1 << 30);
        let value = StoredValue {
            metadata: Bytes::from(vec![b' '; 1024]),
            content_type: Bytes::from_static(b"text/plain; charset=\"utf-8\""),
            ..stored(400)
        };
        let key = [b'k'; 1000];
        let answer = AnswerBudget::new(&memory, CLIENT, std::iter::once(&key[..]));
        assert_eq!(answer.admit(&key, &value), ValueAdmission::Admitted);
        assert_eq!(answer.bytes(), 400 + 999 + 1024 + 29);
        assert_eq!(memory.used_bytes(), answer.bytes());
    }

    #[test]
    fn values_have_what_the_other_parts_of_the_answer_leave() {
        let memory = MemoryBudget::new(1 << 30);
        let limit = |keys: usize, bytes: usize| {
            let key = vec![b'"'; bytes];
            let keys = std::iter::repeat_n(&key[..], keys);
            AnswerBudget::new(&memory, CLIENT, keys).limit()
        };
        assert_eq!(limit(1000, 64), MAX_VALUE_LINES_BYTES);
        assert_eq!(limit(10_000, 64), MAX_VALUE_LINES_BYTES);
        assert_eq!(limit(1, 6 << 20), (4 << 20) - MAX_LINE_BYTES);
        assert_eq!(limit(10_000, 800), 0);
    }

    proptest! {
        #[test]
        fn sizes_are_those_of_the_json(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            let quotes = 2;
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(value_bytes(text.as_bytes()) + quotes, json.len());
            if std::str::from_utf8(&bytes).is_err() {
                prop_assert_eq!(value_bytes(&bytes), STANDARD.encode(&bytes).len());
            }
        }
    }
}
