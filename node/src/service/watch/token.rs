//! Resume tokens: where a stream of a bucket's changes goes on.
//!
//! ```text
//! 1 byte    1: positions; 2: the client has yet to be told what there is, and goes on from nothing
//! 4 bytes   hash of the bucket's ID
//! with positions:
//!   varint  region      8 bytes  incarnation
//!   varint  for each shard: the last entry of its log that needs no telling
//! ```
//!
//! It is written as base64 with the URL-safe alphabet, without padding.

use std::fmt;
use std::sync::Arc;

use cloudkv_common::hash::hash_of;

use crate::service::token::{decode_base64, encode_base64, put_varint, take_number, take_varint};
use crate::types::BucketId;

/// Maximum length of a token that is read. Those of 64 shards take at most 878 bytes.
pub(super) const MAX_TOKEN_BYTES: usize = 1024;
/// First byte of a token with positions.
const POSITIONS: u8 = 1;
/// First byte of a token of a client that was not told all yet.
const INCOMPLETE: u8 = 2;
/// Length of the hash of the bucket's ID, in bytes.
const HASH_BYTES: usize = 4;

/// A region's history: its number, and its incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RegionHistory {
    pub region: u32,
    pub incarnation: u64,
}

/// Position behind which a stream of a bucket's changes goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    bucket_hash: [u8; HASH_BYTES],
    /// Index in the log of each shard of a region; `None` if the client goes on from nothing.
    positions: Option<(RegionHistory, Vec<u64>)>,
}

/// Error of parsing a resume token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeTokenError {
    /// The text is no token that this service has issued.
    #[error("is not a token that this service has issued")]
    Malformed,
    /// The token is of another bucket.
    #[error("is a token of another bucket")]
    OtherBucket,
}

impl ResumeToken {
    pub(super) fn new(bucket: &BucketId, history: RegionHistory, positions: Vec<u64>) -> Self {
        Self {
            bucket_hash: hash_bucket(bucket),
            positions: Some((history, positions)),
        }
    }

    /// Parses a token of a bucket.
    pub fn parse(text: &str, bucket: &BucketId) -> Result<Self, ResumeTokenError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(ResumeTokenError::Malformed);
        }
        let token = decode_base64(text).as_deref().and_then(decode);
        let token = token.ok_or(ResumeTokenError::Malformed)?;
        if token.bucket_hash == hash_bucket(bucket) {
            Ok(token)
        } else {
            Err(ResumeTokenError::OtherBucket)
        }
    }

    /// Returns the index in each shard's log, if the token is of this history and as many shards.
    pub(super) fn positions_in(&self, history: RegionHistory, shards: usize) -> Option<&[u64]> {
        let (region, positions) = self.positions.as_ref()?;
        (*region == history && positions.len() == shards).then_some(positions)
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.positions {
            Some((history, positions)) => {
                let mut bytes = head(self.bucket_hash, *history);
                put_positions(&mut bytes, positions);
                encode_base64(&bytes)
            }
            None => encode_incomplete(self.bucket_hash),
        };
        f.write_str(&text)
    }
}

/// Writer of the tokens of one bucket.
#[derive(Clone, Debug)]
pub(super) struct TokenWriter {
    /// All that comes before the positions.
    head: Vec<u8>,
    incomplete: Arc<str>,
}

impl TokenWriter {
    pub(super) fn new(bucket: &BucketId, history: RegionHistory) -> Self {
        let hash = hash_bucket(bucket);
        Self {
            head: head(hash, history),
            incomplete: encode_incomplete(hash).into(),
        }
    }

    /// Returns the token that goes on behind these entries, one for each shard.
    pub(super) fn positions(&self, positions: &[u64]) -> Arc<str> {
        let mut bytes = Vec::with_capacity(self.head.len() + 5 * positions.len());
        bytes.extend_from_slice(&self.head);
        put_positions(&mut bytes, positions);
        encode_base64(&bytes).into()
    }

    /// Returns the token of a client that has yet to be told what there is.
    pub(super) fn incomplete(&self) -> Arc<str> {
        self.incomplete.clone()
    }
}

fn hash_bucket(bucket: &BucketId) -> [u8; HASH_BYTES] {
    let [a, b, c, d, ..] = hash_of(bucket.as_bytes(), b"").to_be_bytes();
    [a, b, c, d]
}

fn head(bucket_hash: [u8; HASH_BYTES], history: RegionHistory) -> Vec<u8> {
    let mut bytes = vec![POSITIONS];
    bytes.extend_from_slice(&bucket_hash);
    put_varint(&mut bytes, history.region.into());
    bytes.extend_from_slice(&history.incarnation.to_be_bytes());
    bytes
}

fn put_positions(bytes: &mut Vec<u8>, positions: &[u64]) {
    for position in positions {
        put_varint(bytes, *position);
    }
}

fn encode_incomplete(bucket_hash: [u8; HASH_BYTES]) -> String {
    let mut bytes = vec![INCOMPLETE];
    bytes.extend_from_slice(&bucket_hash);
    encode_base64(&bytes)
}

fn decode(bytes: &[u8]) -> Option<ResumeToken> {
    let (kind, rest) = bytes.split_first()?;
    let (bucket_hash, mut rest) = rest.split_first_chunk::<HASH_BYTES>()?;
    let positions = match *kind {
        POSITIONS => {
            let region = u32::try_from(take_varint(&mut rest)?).ok()?;
            let incarnation = take_number(&mut rest, 8)?;
            let mut positions = Vec::new();
            while !rest.is_empty() {
                positions.push(take_varint(&mut rest)?);
            }
            let history = RegionHistory {
                region,
                incarnation,
            };
            Some((history, positions))
        }
        INCOMPLETE if rest.is_empty() => None,
        _ => return None,
    };
    Some(ResumeToken {
        bucket_hash: *bucket_hash,
        positions,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HISTORY: RegionHistory = RegionHistory {
        region: 3,
        incarnation: 0xfeed,
    };

    fn bucket(id: &str) -> BucketId {
        BucketId::parse(id.as_bytes()).unwrap()
    }

    fn any_index() -> impl Strategy<Value = u64> {
        // Indexes of a log fit in 63 bits.
        prop_oneof![Just(0), Just(u64::MAX >> 1), 0..u64::MAX >> 1, 0_u64..1000]
    }

    #[test]
    fn a_token_has_this_form_for_ever() {
        let id = bucket("a0h6hqok6kAT3d");
        let token = TokenWriter::new(&id, HISTORY).positions(&[1, 300]);
        let bytes = decode_base64(&token).unwrap();
        assert_eq!(bytes.len(), 1 + 4 + 1 + 8 + 1 + 2);
        assert_eq!(
            (bytes[0], &bytes[5..]),
            (1, &b"\x03\0\0\0\0\0\0\xfe\xed\x01\xac\x02"[..])
        );
        let incomplete = TokenWriter::new(&id, HISTORY).incomplete();
        let incomplete = decode_base64(&incomplete).unwrap();
        assert_eq!(incomplete, [&b"\x02"[..], &bytes[1..5]].concat());
    }

    #[test]
    fn a_token_counts_for_its_bucket_its_history_and_its_number_of_shards() {
        let (id, other) = (bucket("a0h6hqok6kAT3d"), bucket("a0h6hqok6kAT3e"));
        let text = TokenWriter::new(&id, HISTORY).positions(&[7, 8]);
        let token = ResumeToken::parse(&text, &id).unwrap();
        assert_eq!(token, ResumeToken::new(&id, HISTORY, vec![7, 8]));
        assert_eq!(token.positions_in(HISTORY, 2), Some(&[7, 8][..]));
        assert_eq!(token.positions_in(HISTORY, 3), None);
        let elsewhere = RegionHistory {
            region: 4,
            ..HISTORY
        };
        let later = RegionHistory {
            incarnation: 1,
            ..HISTORY
        };
        assert_eq!(token.positions_in(elsewhere, 2), None);
        assert_eq!(token.positions_in(later, 2), None);
        let parsed = ResumeToken::parse(&text, &other);
        assert_eq!(parsed, Err(ResumeTokenError::OtherBucket));
        let incomplete = TokenWriter::new(&id, HISTORY).incomplete();
        let token = ResumeToken::parse(&incomplete, &id).unwrap();
        assert_eq!(token.positions_in(HISTORY, 0), None);
        assert_eq!(token.to_string(), &*incomplete);
    }

    #[test]
    fn other_texts_are_malformed() {
        let id = bucket("a0h6hqok6kAT3d");
        let text = TokenWriter::new(&id, HISTORY).positions(&[7, 300]);
        let bytes = decode_base64(&text).unwrap();
        let cut = encode_base64(&bytes[..bytes.len() - 1]);
        let longer = encode_base64(&[&bytes[..], b"\xff"].concat());
        let unknown = encode_base64(&[&b"\x03"[..], &bytes[1..]].concat());
        let incomplete = encode_base64(&[&b"\x02"[..], &bytes[1..]].concat());
        let endless = "A".repeat(MAX_TOKEN_BYTES + 1);
        let texts = [
            "",
            "A",
            "*",
            "AQAA",
            &cut,
            &longer,
            &unknown,
            &incomplete,
            &endless,
        ];
        for text in texts {
            let parsed = ResumeToken::parse(text, &id);
            assert_eq!(parsed, Err(ResumeTokenError::Malformed), "{text}");
        }
    }

    #[test]
    fn the_longest_token_is_read() {
        let id = bucket("a0h6hqok6kAT3d");
        let history = RegionHistory {
            region: u32::MAX,
            incarnation: u64::MAX,
        };
        let positions = vec![u64::MAX >> 1; 64];
        let text = TokenWriter::new(&id, history).positions(&positions);
        let token = ResumeToken::parse(&text, &id).unwrap();
        assert_eq!(token.positions_in(history, 64), Some(&positions[..]));
    }

    proptest! {
        #[test]
        fn tokens_survive_encoding(
            region in any::<u32>(),
            incarnation in any::<u64>(),
            positions in proptest::collection::vec(any_index(), 0..=64),
        ) {
            let id = bucket("a0h6hqok6kAT3d");
            let history = RegionHistory { region, incarnation };
            let text = TokenWriter::new(&id, history).positions(&positions);
            let token = ResumeToken::parse(&text, &id).unwrap();
            prop_assert_eq!(token.positions_in(history, positions.len()), Some(&positions[..]));
            prop_assert_eq!(token.to_string(), &*text);
        }

        #[test]
        fn parsing_never_panics(
            text in "[A-Za-z0-9_-]{0,80}",
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let id = bucket("a0h6hqok6kAT3d");
            let _ = ResumeToken::parse(&text, &id);
            let whole = [&[POSITIONS][..], &hash_bucket(&id)[..], &bytes[..]].concat();
            if let Ok(token) = ResumeToken::parse(&encode_base64(&whole), &id) {
                let again = ResumeToken::parse(&token.to_string(), &id);
                prop_assert_eq!(again, Ok(token));
            }
        }
    }
}
