//! Which shard a key belongs to.
//!
//! Nothing here knows the node's code, so this says again what the node does, and clients of the
//! node can't rely on it. The same numbers are pinned in tests of both.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::harness::Bucket;

/// The number of the shard of a key, of `shards`.
pub fn shard_of(bucket: &str, key: &str, shards: u32) -> u32 {
    let hash = xxh3_64_with_seed(key.as_bytes(), xxh3_64(bucket.as_bytes()));
    u32::try_from(hash % u64::from(shards)).unwrap_or(0)
}

/// A key that begins with `prefix` and is in this shard.
///
/// # Panics
/// When there is no such shard.
pub fn key_in_shard(bucket: &Bucket, prefix: &str, shard: u32, shards: u32) -> String {
    assert!(shard < shards, "there are {shards} shards");
    let mut names = (0_u64..).map(|number| format!("{prefix}{number}"));
    let found = names.find(|name| shard_of(&bucket.id, name, shards) == shard);
    found.expect("numbers don't end")
}

#[cfg(test)]
mod tests {
    use super::shard_of;

    #[test]
    fn keys_are_where_the_node_puts_them() {
        // As pinned in the node's own tests.
        let shards: Vec<u32> = (0..12)
            .map(|n| shard_of("a0h6hqok6kAT3d", &format!("key-{n}"), 8))
            .collect();
        assert_eq!(shards, [7, 3, 3, 1, 0, 3, 0, 1, 6, 3, 6, 1]);
    }
}
