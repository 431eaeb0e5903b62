//! A change as the memory of recent changes holds it: small, with all its texts in one allocation.
//!
//! The texts are copied, since those of a write are slices of its whole Raft entry, which they
//! would retain with all its values.

use bytes::Bytes;
use cloudkv_proto::v1 as pb;

use super::record;
use crate::types::{BucketId, KeyChange, KeyChangeKind, KeyFilter, Nanos, PutDetails, Version};

/// Estimated memory of a change beside its texts, in bytes: its place in a queue that may be half
/// empty, and the overhead of its allocations.
const OVERHEAD_BYTES: usize = 224;

/// A change of a key that readers see, or of a bucket.
#[derive(Clone, Debug)]
pub(super) struct RememberedChange {
    /// Index of its entry in the log; 0 until the entry is applied.
    index: u64,
    bucket: BucketId,
    version: Version,
    kind: RememberedKind,
    /// Length of the key, in bytes.
    key_bytes: usize,
    /// The key, followed by the content type and the metadata of a put.
    texts: Bytes,
}

/// Kind of a change, as [`KeyChangeKind`].
#[derive(Clone, Copy, Debug)]
enum RememberedKind {
    Put {
        size: u64,
        /// Expiry; 0 if it never expires.
        expires_at: Nanos,
        /// Length of the content type, in bytes.
        content_type_bytes: usize,
    },
    Deleted,
    Expired,
    BucketDropped,
}

impl RememberedChange {
    /// Copies a written record, without its value.
    pub(super) fn put(bucket: BucketId, key: &[u8], record: &pb::Record) -> Self {
        let texts = [key, &record.content_type[..], &record.metadata[..]].concat();
        Self {
            index: 0,
            bucket,
            version: record::version_of(record),
            kind: RememberedKind::Put {
                size: record.value.len() as u64,
                expires_at: record.expires_at,
                content_type_bytes: record.content_type.len(),
            },
            key_bytes: key.len(),
            texts: Bytes::from(texts),
        }
    }

    /// Creates the change of a key that was deleted.
    pub(super) fn deleted(bucket: BucketId, key: &[u8], version: Version) -> Self {
        Self::removal(bucket, key, version, RememberedKind::Deleted)
    }

    /// Creates the change of a key that was removed since it has expired.
    pub(super) fn expired(bucket: BucketId, key: &[u8], version: Version) -> Self {
        Self::removal(bucket, key, version, RememberedKind::Expired)
    }

    /// Creates the change of a bucket that was dropped.
    pub(super) fn bucket_dropped(bucket: BucketId) -> Self {
        let kind = RememberedKind::BucketDropped;
        Self::removal(bucket, b"", Version::default(), kind)
    }

    fn removal(bucket: BucketId, key: &[u8], version: Version, kind: RememberedKind) -> Self {
        Self {
            index: 0,
            bucket,
            version,
            kind,
            key_bytes: key.len(),
            texts: Bytes::copy_from_slice(key),
        }
    }

    /// Index of its entry in the log; 0 until the entry is applied.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Sets the index of its entry in the log.
    pub(super) fn set_index(&mut self, index: u64) {
        self.index = index;
    }

    /// Returns the memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.texts.len() + OVERHEAD_BYTES
    }

    /// Returns whether it is a change of these keys. The drop of a bucket changes all of its keys.
    pub(super) fn is_selected(
        &self,
        bucket: Option<&BucketId>,
        filter: Option<&KeyFilter>,
    ) -> bool {
        let is_drop = matches!(self.kind, RememberedKind::BucketDropped);
        let is_in_bucket = bucket.is_none_or(|bucket| *bucket == self.bucket);
        let key = &self.texts[..self.key_bytes];
        is_in_bucket && (is_drop || filter.is_none_or(|filter| filter.matches(key)))
    }

    /// Converts it to the form that readers get, which shares its texts.
    pub(super) fn to_key_change(&self) -> KeyChange {
        let kind = match self.kind {
            RememberedKind::Put {
                size,
                expires_at,
                content_type_bytes,
            } => {
                let content_type_end = self.key_bytes + content_type_bytes;
                KeyChangeKind::Put(PutDetails {
                    size,
                    expires_at: (expires_at != 0).then_some(expires_at),
                    content_type: self.texts.slice(self.key_bytes..content_type_end),
                    metadata: self.texts.slice(content_type_end..),
                })
            }
            RememberedKind::Deleted => KeyChangeKind::Deleted,
            RememberedKind::Expired => KeyChangeKind::Expired,
            RememberedKind::BucketDropped => KeyChangeKind::BucketDropped,
        };
        KeyChange {
            index: self.index,
            bucket: self.bucket,
            key: self.texts.slice(..self.key_bytes),
            version: self.version,
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(last: u8) -> BucketId {
        let mut id = *b"aAAAAAAAAAAAAA";
        id[13] = last;
        BucketId::parse(&id).unwrap()
    }

    proptest! {
        #[test]
        fn a_put_has_all_of_its_record_but_the_value(
            key in "[a-c]{1,9}", texts in ("[a-c/]{0,9}", "[a-c{}]{0,9}"), numbers: (u64, u64, u32),
            size in 0..40_usize,
        ) {
            let record = pb::Record {
                version: Some(pb::Version { time: numbers.0, region: numbers.2 }),
                expires_at: numbers.1,
                content_type: Bytes::from(texts.0),
                metadata: Bytes::from(texts.1),
                value: Bytes::from(vec![7; size]),
                ..Default::default()
            };
            let mut change = RememberedChange::put(bucket(b'B'), key.as_bytes(), &record);
            change.set_index(9);
            let details = PutDetails {
                size: size as u64,
                expires_at: (numbers.1 != 0).then_some(numbers.1),
                content_type: record.content_type,
                metadata: record.metadata,
            };
            let expected = KeyChange {
                index: 9,
                bucket: bucket(b'B'),
                key: Bytes::from(key),
                version: Version { time: numbers.0, region: numbers.2 },
                kind: KeyChangeKind::Put(details),
            };
            prop_assert_eq!(change.to_key_change(), expected);
        }
    }

    #[test]
    fn keys_are_selected_by_bucket_and_filter_and_a_drop_by_its_bucket_alone() {
        let version = Version { time: 1, region: 1 };
        let change = RememberedChange::deleted(bucket(b'B'), b"a/b", version);
        let dropped = RememberedChange::bucket_dropped(bucket(b'B'));
        let prefix = |text: &'static str| KeyFilter::Prefix(Bytes::from_static(text.as_bytes()));
        let key = |text: &'static str| KeyFilter::Key(Bytes::from_static(text.as_bytes()));
        let cases = [
            (prefix(""), true),
            (prefix("a/"), true),
            (prefix("b"), false),
            (key("a/b"), true),
            (key("a/"), false),
        ];
        for (filter, expected) in cases {
            for of in [None, Some(&bucket(b'B'))] {
                assert_eq!(
                    change.is_selected(of, Some(&filter)),
                    expected,
                    "{filter:?}"
                );
                assert!(dropped.is_selected(of, Some(&filter)), "{filter:?}");
            }
            assert!(!change.is_selected(Some(&bucket(b'C')), Some(&filter)));
            assert!(!dropped.is_selected(Some(&bucket(b'C')), Some(&filter)));
        }
        assert!(change.is_selected(None, None) && change.is_selected(Some(&bucket(b'B')), None));
    }
}
