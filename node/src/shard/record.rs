//! Encoding of records, and the digest that replicas and regions compare.

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use prost::Message;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::store::StoreError;
use crate::types::{Nanos, StoredValue, Version};

/// Decodes a row's record, whose value shares the row's bytes.
pub(super) fn decode(row: Bytes) -> Result<pb::Record, StoreError> {
    pb::Record::decode(row).map_err(StoreError::on("decode", "record"))
}

/// Returns the version of a record.
pub(super) fn version_of(record: &pb::Record) -> Version {
    record.version.map(Version::from).unwrap_or_default()
}

/// Returns whether a reader at `now` sees the record.
pub(super) fn is_live(record: &pb::Record, now: Nanos) -> bool {
    !record.tombstone && (record.expires_at == 0 || now < record.expires_at)
}

/// Returns the expiry of a record, if it has one.
pub(super) fn expiry_of(record: &pb::Record) -> Option<Nanos> {
    (record.expires_at != 0).then_some(record.expires_at)
}

/// Converts a live record to the entry that its reader gets.
pub(super) fn into_entry(record: pb::Record) -> StoredValue {
    StoredValue {
        version: version_of(&record),
        expires_at: expiry_of(&record),
        value: record.value,
        content_type: record.content_type,
        metadata: record.metadata,
    }
}

/// Returns what a record's key, value and metadata count in the bytes of its bucket.
pub(super) fn counted_bytes(key: &[u8], record: &pb::Record) -> u64 {
    (key.len() + record.value.len() + record.metadata.len()) as u64
}

/// Returns a record's contribution to the digest: a hash of the key and of all fields that regions
/// have in common. The digest is the wrapping sum of these, so it doesn't depend on their order.
pub(super) fn digest(bucket: &[u8], key: &[u8], record: &pb::Record) -> u64 {
    let version = version_of(record);
    let mut head = Vec::with_capacity(64 + key.len() + record.content_type.len());
    head.extend_from_slice(bucket);
    head.extend_from_slice(&(key.len() as u64).to_be_bytes());
    head.extend_from_slice(key);
    head.extend_from_slice(&version.time.to_be_bytes());
    head.extend_from_slice(&version.region.to_be_bytes());
    head.extend_from_slice(&record.expires_at.to_be_bytes());
    head.push(u8::from(record.tombstone));
    head.extend_from_slice(&record.content_type);
    if !record.metadata.is_empty() {
        // A content type has no zero byte, as the length has, so the two can't be confused. Records
        // without metadata keep the digest that they had before level 2.
        head.extend_from_slice(&record.metadata);
        head.extend_from_slice(&(record.metadata.len() as u64).to_be_bytes());
    }
    xxh3_64_with_seed(&record.value, xxh3_64(&head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = pb::Record> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let numbers = any::<(u64, u32, u64, bool, u64, u64)>();
        let texts = (bytes(), bytes(), bytes());
        (numbers, texts).prop_map(
            |(
                (time, region, expires_at, tombstone, change, source),
                (content_type, metadata, value),
            )| {
                pb::Record {
                    version: Some(pb::Version { time, region }),
                    expires_at,
                    tombstone,
                    content_type,
                    change,
                    source,
                    metadata,
                    value,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn records_round_trip(record in records()) {
            let row = Bytes::from(record.encode_to_vec());
            prop_assert_eq!(decode(row).unwrap(), record);
        }

        #[test]
        fn the_digest_covers_all_fields_but_history_positions(
            record in records(), change: u64, source: u64, other in records()
        ) {
            let moved = pb::Record { change, source, ..record.clone() };
            prop_assert_eq!(digest(b"b", b"k", &record), digest(b"b", b"k", &moved));
            let bare = |record: &pb::Record| pb::Record { change: 0, source: 0, ..record.clone() };
            let same = bare(&record) == bare(&other);
            prop_assert_eq!(digest(b"b", b"k", &record) == digest(b"b", b"k", &other), same);
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(row in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(Bytes::from(row));
        }
    }

    #[test]
    fn bytes_of_release_0_1_decode() {
        // Written by release 0.1.
        let row = b"\x0a\x0b\x09\x15\xcd\x5b\x07\x00\x00\x00\x00\x10\x01\x11\x2a\
            \x00\x00\x00\x00\x00\x00\x00\x22\x0atext/plain\x7a\x05hello";
        let record = decode(Bytes::from_static(row)).unwrap();
        assert_eq!(
            version_of(&record),
            Version {
                time: 123_456_789,
                region: 1
            }
        );
        assert_eq!(record.expires_at, 42);
        assert_eq!(&record.content_type[..], b"text/plain");
        assert_eq!(&record.value[..], b"hello");
        assert!(!record.tombstone);
    }

    #[test]
    fn a_record_expires_at_its_expiry_and_a_tombstone_is_never_live() {
        let mut record = pb::Record {
            expires_at: 10,
            ..Default::default()
        };
        assert!(is_live(&record, 9));
        assert!(!is_live(&record, 10));
        record.expires_at = 0;
        assert!(is_live(&record, u64::MAX));
        record.tombstone = true;
        assert!(!is_live(&record, 0));
    }
}
