//! The two text forms of session tokens.
//!
//! - *Plain*: `region.incarnation.shard.time` in hexadecimal, joined by `_`. Every version of this
//!   software reads it, so it is the form of all tokens that are short.
//! - *Compact*: the same in binary, as base64 with the URL-safe alphabet. It has no dots, which
//!   distinguishes it from the plain form. With 64 shards and 8 regions it takes up to 6.5 kB, and
//!   usually about half of that.
//!
//! ```text
//! 1 byte    1: the compact form
//! then for each region, ascending:
//!   varint  region      8 bytes  incarnation    8 bytes  newest time
//!   varint  number of shards    1 byte   length of each difference of times, 0 to 8
//!   for each shard, ascending:
//!     varint  shard, minus (previous shard + 1)          0 to 8 bytes  newest time minus its time
//! ```
//!
//! Invariant: a token from [`encode`] is at most [`MAX_TOKEN_BYTES`] long, and [`decode`] reads it.
//! A token that would be longer, in a cluster of more regions than that, omits the oldest versions:
//! these are the most likely to be everywhere.

use std::fmt::Write;

use crate::types::Nanos;

/// Maximum length of a token that is issued.
pub(super) const MAX_TOKEN_BYTES: usize = 8192;
/// Maximum length of a token that is read: older versions issued such.
const MAX_INPUT_BYTES: usize = 32 << 10;
/// Maximum length of a token in the plain form; longer ones are compact.
const MAX_PLAIN_BYTES: usize = 2048;
/// First byte of the compact form.
const COMPACT_FORMAT: u8 = 1;
const BASE64_ALPHABET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Newest version seen of a region's history of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TokenEntry {
    pub region: u32,
    pub incarnation: u64,
    pub shard: u16,
    pub time: Nanos,
}

/// Encodes `entries`, which are in ascending order.
pub(super) fn encode(mut entries: Vec<TokenEntry>) -> String {
    let plain_token = encode_plain(&entries);
    if plain_token.len() <= MAX_PLAIN_BYTES {
        return plain_token;
    }
    loop {
        let compact_token = encode_base64(&encode_compact(&entries));
        if compact_token.len() <= MAX_TOKEN_BYTES {
            return compact_token;
        }
        drop_oldest(&mut entries);
    }
}

/// Drops the oldest sixteenth of the entries, and those of the same time, unless that is all.
fn drop_oldest(entries: &mut Vec<TokenEntry>) {
    let mut times: Vec<Nanos> = entries.iter().map(|entry| entry.time).collect();
    times.sort_unstable();
    let drop_count = times.len().div_ceil(16);
    let Some(last) = drop_count.checked_sub(1).and_then(|at| times.get(at)) else {
        return;
    };
    if times.last() != Some(last) {
        entries.retain(|entry| entry.time > *last);
    } else if times.first() != Some(last) {
        entries.retain(|entry| entry.time == *last);
    } else {
        entries.truncate(times.len() - drop_count);
    }
}

/// Decodes a token; `None` if the text is malformed.
pub(super) fn decode(text: &str) -> Option<Vec<TokenEntry>> {
    if text.len() > MAX_INPUT_BYTES {
        return None;
    }
    if text.contains('.') {
        return text.split('_').map(decode_plain_entry).collect();
    }
    if text.len() > MAX_TOKEN_BYTES {
        return None;
    }
    decode_compact(&decode_base64(text)?)
}

fn encode_plain(entries: &[TokenEntry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let separator = if text.is_empty() { "" } else { "_" };
        let (region, incarnation) = (entry.region, entry.incarnation);
        let (shard, time) = (entry.shard, entry.time);
        // Writing to a string doesn't fail.
        let _ = write!(
            text,
            "{separator}{region:x}.{incarnation:x}.{shard:x}.{time:x}"
        );
    }
    text
}

fn decode_plain_entry(text: &str) -> Option<TokenEntry> {
    let mut parts = text.split('.');
    let (region, incarnation) = (parts.next()?, parts.next()?);
    let (shard, time) = (parts.next()?, parts.next()?);
    let none_left = parts.next().is_none();
    none_left.then_some(TokenEntry {
        region: u32::from_str_radix(region, 16).ok()?,
        incarnation: u64::from_str_radix(incarnation, 16).ok()?,
        shard: u16::from_str_radix(shard, 16).ok()?,
        time: u64::from_str_radix(time, 16).ok()?,
    })
}

fn encode_compact(entries: &[TokenEntry]) -> Vec<u8> {
    let mut out = vec![COMPACT_FORMAT];
    let is_same_region = |one: &TokenEntry, other: &TokenEntry| {
        (one.region, one.incarnation) == (other.region, other.incarnation)
    };
    for region in entries.chunk_by(is_same_region) {
        let newest = region.iter().map(|entry| entry.time).max().unwrap_or(0);
        let differences = region.iter().map(|entry| newest - entry.time);
        let widest = differences.max().unwrap_or(0);
        let skip = (widest.leading_zeros() / 8) as usize;
        let mut next = 0;
        for (index, entry) in region.iter().enumerate() {
            if index == 0 {
                put_varint(&mut out, entry.region.into());
                out.extend_from_slice(&entry.incarnation.to_be_bytes());
                out.extend_from_slice(&newest.to_be_bytes());
                put_varint(&mut out, region.len() as u64);
                out.push(8_u8.saturating_sub(u8::try_from(skip).unwrap_or(8)));
            }
            put_varint(&mut out, u64::from(entry.shard) - next);
            next = u64::from(entry.shard) + 1;
            out.extend_from_slice(&(newest - entry.time).to_be_bytes()[skip..]);
        }
    }
    out
}

fn decode_compact(bytes: &[u8]) -> Option<Vec<TokenEntry>> {
    let mut rest = bytes.strip_prefix(&[COMPACT_FORMAT])?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let region = u32::try_from(take_varint(&mut rest)?).ok()?;
        let incarnation = take_number(&mut rest, 8)?;
        let newest = take_number(&mut rest, 8)?;
        let shards = take_varint(&mut rest)?;
        let width = usize::try_from(take_number(&mut rest, 1)?).ok()?;
        let mut next = 0_u64;
        for _ in 0..shards {
            let shard = u16::try_from(next.checked_add(take_varint(&mut rest)?)?).ok()?;
            next = u64::from(shard) + 1;
            let time = newest.checked_sub(take_number(&mut rest, width)?)?;
            entries.push(TokenEntry {
                region,
                incarnation,
                shard,
                time,
            });
        }
    }
    (!entries.is_empty()).then_some(entries)
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            return out.push(low & 127);
        }
        out.push(low | 128);
    }
}

pub(super) fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        number |= u64::from(byte & 127) << shift;
        if *byte < 128 {
            return Some(number);
        }
    }
    None
}

pub(super) fn take_number(rest: &mut &[u8], width: usize) -> Option<u64> {
    let (bytes, tail) = rest.split_at_checked(width)?;
    *rest = tail;
    let mut number = [0; 8];
    number
        .get_mut(8_usize.checked_sub(width)?..)?
        .copy_from_slice(bytes);
    Some(u64::from_be_bytes(number))
}

pub(super) fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let number = u32::from_be_bytes(padded);
        for digit in 0..=group.len() {
            let digit = (number >> (18 - 6 * digit)) & 63;
            text.push(BASE64_ALPHABET[digit as usize].into());
        }
    }
    text
}

pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| -> Option<u32> {
        let position = BASE64_ALPHABET.iter().position(|letter| letter == byte)?;
        u32::try_from(position).ok()
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut number = 0;
        for (index, byte) in group.iter().enumerate() {
            number |= digit(byte)? << (18 - 6 * index);
        }
        let length = group.len().checked_sub(1).filter(|length| *length > 0)?;
        bytes.extend_from_slice(&number.to_be_bytes()[1..=length]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0_u64..1000]
    }

    /// Entries of up to so many regions and shards, in ascending order.
    fn any_entries(regions: usize, shards: u16) -> impl Strategy<Value = Vec<TokenEntry>> {
        let times =
            proptest::collection::btree_map(0..shards, any_number(), 1..=usize::from(shards));
        let region = (any_number(), times);
        let numbers = proptest::collection::btree_map(any::<u32>(), region, 1..=regions);
        numbers.prop_map(|regions| {
            let mut all = Vec::new();
            for (region, (incarnation, times)) in regions {
                all.extend(times.into_iter().map(|(shard, time)| TokenEntry {
                    region,
                    incarnation,
                    shard,
                    time,
                }));
            }
            all
        })
    }

    /// Entries of all regions and shards, with the times that have the longest encoding.
    fn extreme_entries(regions: u32, shards: u16) -> Vec<TokenEntry> {
        let all = (0..regions).flat_map(|region| (0..shards).map(move |shard| (region, shard)));
        let entry = |(region, shard): (u32, u16)| TokenEntry {
            region: u32::MAX - 8 + region % 8 + region / 8,
            incarnation: u64::MAX,
            shard,
            time: if shard == 0 { 0 } else { u64::MAX },
        };
        let mut all: Vec<TokenEntry> = all.map(entry).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn tokens_of_64_shards_and_8_regions_are_complete() {
        let entries = extreme_entries(8, 64);
        let token = encode(entries.clone());
        assert!(token.len() < 7000, "{} bytes", token.len());
        assert_eq!(decode(&token), Some(entries.clone()));
        // Older versions wrote the plain form.
        assert_eq!(decode(&encode_plain(&entries)), Some(entries));
    }

    #[test]
    fn short_tokens_are_plain_for_older_versions() {
        let entries = extreme_entries(3, 8);
        assert_eq!(encode(entries.clone()), encode_plain(&entries));
    }

    #[test]
    fn tokens_of_more_regions_omit_the_oldest_entries() {
        let shards = 0..64_u16;
        let all = (0..40_u32).flat_map(|region| shards.clone().map(move |shard| (region, shard)));
        let entry = |(region, shard): (u32, u16)| TokenEntry {
            region,
            incarnation: u64::MAX,
            shard,
            time: 1_700_000_000_000_000_000 + (u64::from(region) << 32) * (1 + u64::from(shard)),
        };
        let entries: Vec<TokenEntry> = all.map(entry).collect();
        let token = encode(entries.clone());
        assert!(token.len() <= MAX_TOKEN_BYTES);
        let kept = decode(&token).unwrap();
        let oldest = kept.iter().map(|entry| entry.time).min().unwrap();
        let newer = entries.into_iter().filter(|entry| entry.time >= oldest);
        assert_eq!(kept, newer.collect::<Vec<_>>());
        assert!(kept.len() > 500);
    }

    #[test]
    fn tokens_of_entries_of_one_time_are_never_empty() {
        for oldest in [7, 6] {
            let entry = |region| TokenEntry {
                region,
                incarnation: u64::MAX,
                shard: 0,
                time: if region == 0 { oldest } else { 7 },
            };
            let entries: Vec<TokenEntry> = (0..1000).map(entry).collect();
            let token = encode(entries.clone());
            assert!(token.len() <= MAX_TOKEN_BYTES);
            let kept = decode(&token).unwrap();
            assert!(kept.len() > 200);
            assert!(kept.iter().all(|entry| entries.contains(entry)));
        }
    }

    proptest! {
        #[test]
        fn entries_survive_encoding(entries in any_entries(8, 64)) {
            let token = encode(entries.clone());
            prop_assert!(token.len() <= MAX_TOKEN_BYTES);
            prop_assert_eq!(decode(&token), Some(entries.clone()));
            let compact = encode_base64(&encode_compact(&entries));
            prop_assert_eq!(decode(&compact), Some(entries));
        }

        #[test]
        fn decoding_never_panics(
            text in "[A-Za-z0-9_.-]{0,60}",
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let _ = decode(&text);
            let _ = decode_compact(&[&[COMPACT_FORMAT], &bytes[..]].concat());
        }
    }
}
