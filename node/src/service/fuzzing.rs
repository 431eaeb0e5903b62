//! Fuzz target of session tokens.

use std::collections::BTreeMap;

use super::token::{self, MAX_TOKEN_BYTES, TokenEntry};

/// Decodes a token. What it names, encoded again, is a token of a bounded size that names the same,
/// or the newest part.
pub fn session_tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(entries) = token::decode(text) else {
        return;
    };
    assert!(!entries.is_empty() && entries.len() <= text.len());
    let seen: BTreeMap<(u32, u64, u16), u64> = entries.iter().map(to_pair).collect();
    let entries = seen
        .iter()
        .map(|((region, incarnation, shard), time)| TokenEntry {
            region: *region,
            incarnation: *incarnation,
            shard: *shard,
            time: *time,
        });
    let issued = token::encode(entries.collect());
    assert!(issued.len() <= MAX_TOKEN_BYTES, "{} bytes", issued.len());
    assert!(issued.bytes().all(|byte| byte.is_ascii_graphic()));
    let read = token::decode(&issued);
    assert!(read.is_some(), "an issued token isn't read: {issued}");
    let read: BTreeMap<_, _> = read.iter().flatten().map(to_pair).collect();
    let oldest = read.values().min().copied().unwrap_or_default();
    for (key, time) in &read {
        assert_eq!(seen.get(key), Some(time));
    }
    for (key, time) in &seen {
        assert!(
            read.contains_key(key) || *time <= oldest,
            "a newer entry was left out"
        );
    }
}

fn to_pair(entry: &TokenEntry) -> ((u32, u64, u16), u64) {
    let key = (entry.region, entry.incarnation, entry.shard);
    (key, entry.time)
}
