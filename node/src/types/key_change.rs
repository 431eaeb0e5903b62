//! Changes of keys, as those who watch a bucket are told.

use bytes::Bytes;

use super::bucket_id::BucketId;
use super::version::{Nanos, Version};

/// Change of a key that readers see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Index of the entry that made it, in the log of the key's shard.
    pub index: u64,
    /// Bucket of the key.
    pub bucket: BucketId,
    /// The key; empty if the bucket was dropped.
    pub key: Bytes,
    /// Version that the change made. A key that expired keeps its version.
    pub version: Version,
    /// Kind of the change.
    pub kind: KeyChangeKind,
}

/// Kind of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChangeKind {
    /// The key was written, or its expiry or metadata was changed.
    Put(PutDetails),
    /// The key was deleted.
    Deleted,
    /// The key has expired.
    Expired,
    /// The bucket was deleted, with all its keys in this shard.
    BucketDropped,
}

/// What a put wrote, without the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutDetails {
    /// Size of the value, in bytes.
    pub size: u64,
    /// Expiry, if it expires.
    pub expires_at: Option<Nanos>,
    /// Content type; empty if there is none.
    pub content_type: Bytes,
    /// Metadata, as compact JSON; empty if there is none.
    pub metadata: Bytes,
}

/// Selection of keys of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFilter {
    /// All keys with this prefix.
    Prefix(Bytes),
    /// This key.
    Key(Bytes),
}

impl KeyFilter {
    /// Returns whether a key is selected.
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Key(only) => key == only,
        }
    }
}
