//! Requests of the clients: operations, and self-verifying values.
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
    /// Puts in batches of JSON lines.
    Batches,
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
    fn below_is_bounded() {
        let mut random = Random::new(1);
        assert!((0..10_000).all(|_| random.below(10) < 10));
    }
}
