//! Incompressible values.

use std::sync::LazyLock;

use crate::rng::Rng;

/// Size of the random data that values are cut from; the maximum size of a value.
const MAX_VALUE_BYTES: usize = 1 << 20;

/// Returns the value of a key, of so many bytes.
///
/// # Panics
/// Panics if `bytes` exceeds the maximum size.
pub fn value(key: u64, bytes: usize) -> &'static [u8] {
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut rng = Rng::new(0x9015e);
        let words = (0..MAX_VALUE_BYTES / 8).map(|_| rng.next_u64().to_le_bytes());
        words.flatten().collect()
    });
    let starts = (MAX_VALUE_BYTES - bytes) as u64 + 1;
    let first = usize::try_from(key.wrapping_mul(7919) % starts).unwrap_or(0);
    &ALL[first..][..bytes]
}
