//! Maps keys to shards.
//!
//! Tests don't depend on the node's code, so this duplicates the node's hash, which its clients
//! can't rely on. Tests of both pin the same numbers.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::Bucket;

/// Returns the shard of a key, of `shards`.
pub fn shard_of(bucket: &str, key: &str, shards: u32) -> u32 {
    let hash = xxh3_64_with_seed(key.as_bytes(), xxh3_64(bucket.as_bytes()));
    u32::try_from(hash % u64::from(shards)).unwrap_or(0)
}

/// Returns a key that begins with `prefix` and belongs to this shard.
///
/// # Panics
/// Panics if there is no such shard.
pub fn key_in_shard(bucket: &Bucket, prefix: &str, shard: u32, shards: u32) -> String {
    assert!(shard < shards, "there are {shards} shards");
    let mut names = (0_u64..).map(|number| format!("{prefix}{number}"));
    let name_in_shard = names.find(|name| shard_of(&bucket.id, name, shards) == shard);
    name_in_shard.expect("numbers don't end")
}

#[cfg(test)]
mod tests {
    use super::shard_of;

    #[test]
    fn keys_map_to_the_same_shards_as_in_the_node() {
        // The node's own tests pin the same numbers.
        let shards: Vec<u32> = (0..12)
            .map(|n| shard_of("a0h6hqok6kAT3d", &format!("key-{n}"), 8))
            .collect();
        assert_eq!(shards, [7, 3, 3, 1, 0, 3, 0, 1, 6, 3, 6, 1]);
    }
}
