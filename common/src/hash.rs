//! Maps keys to shards. The mapping can never change: keys on disk lie in the shard it gave.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Returns the shard of a key, out of `shards` shards.
pub fn shard_of(bucket: &[u8], key: &[u8], shards: u16) -> u16 {
    let shard = hash_of(bucket, key) % u64::from(shards.max(1));
    u16::try_from(shard).unwrap_or(0)
}

/// Returns the hash of a key of a bucket.
pub fn hash_of(bucket: &[u8], key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, xxh3_64(bucket))
}

#[cfg(test)]
mod tests {
    use super::shard_of;

    #[test]
    fn keys_map_to_the_same_shard_as_in_earlier_releases() {
        let bucket = b"a0h6hqok6kAT3d";
        let shards: Vec<u16> = (0..12)
            .map(|n| shard_of(bucket, format!("key-{n}").as_bytes(), 8))
            .collect();
        assert_eq!(shards, PINNED);
        assert_eq!(shard_of(b"aNaLkrOvqHR6xy", b"", 16), PINNED_EMPTY);
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0_u32; 8];
        for n in 0..80_000 {
            counts[usize::from(shard_of(b"a0h6hqok6kAT3d", format!("k{n}").as_bytes(), 8))] += 1;
        }
        assert!(
            counts.iter().all(|count| (9_500..10_500).contains(count)),
            "{counts:?}"
        );
    }

    const PINNED: [u16; 12] = [7, 3, 3, 1, 0, 3, 0, 1, 6, 3, 6, 1];
    const PINNED_EMPTY: u16 = 15;
}
