//! Types that all parts of the node share: names, requests and results, without any HTTP.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

mod bucket_id;
mod key_change;
mod version;

pub(crate) use bucket_id::BucketId;
pub(crate) use key_change::{KeyChange, KeyChangeKind, KeyFilter, PutDetails};

pub(crate) use version::Version;
pub(crate) use version::{Nanos, to_nanos};

pub(crate) use cloudkv_common::node_id::{AtomicNodeId, NodeId};

/// Account, identified by the SHA-256 of its key. The key itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub [u8; 32]);

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}...", self.0[0], self.0[1])
    }
}

/// Access to a bucket without its account's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone who knows the bucket's ID reads and writes.
    Public,
    /// Everyone who knows the bucket's ID reads; writing needs the account's key.
    PublicRead,
    /// Reading and writing need the account's key.
    Protected,
}

impl Access {
    /// Name in requests and responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::PublicRead => "public-read",
            Self::Protected => "protected",
        }
    }

    /// Parses a name, including `read-public`, which the API's documentation uses as well.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "public" => Some(Self::Public),
            "public-read" | "read-public" => Some(Self::PublicRead),
            "protected" => Some(Self::Protected),
            _ => None,
        }
    }
}

/// Plan of a bucket, which sets its price and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plan {
    /// Up to 10 public buckets of 10,000 keys.
    Free,
    /// Any number of buckets; adds `public-read`.
    Pro,
    /// Larger values; adds `protected`.
    Business,
}

impl Plan {
    /// All plans, the lowest first.
    pub const ALL: [Self; 3] = [Self::Free, Self::Pro, Self::Business];

    /// Name in requests and responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Business => "business",
        }
    }

    /// Parses a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.name() == name)
    }
}

/// Stored value as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    /// Bytes of the value, shared with other readers.
    pub value: Bytes,
    /// `Content-Type` of the write; empty if none was given.
    pub content_type: Bytes,
    /// Version of the write.
    pub version: Version,
    /// Time of expiry; `None` if it never expires.
    pub expires_at: Option<Nanos>,
    /// Metadata of the user: a JSON object, compact, in ASCII; empty if there is none.
    pub metadata: Bytes,
}

/// Result of a read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReadResult {
    /// The live value.
    Live(StoredValue),
    /// The key was deleted or has expired; the version is the one that a reader has seen.
    Deleted(Version),
    /// The key is unknown.
    #[default]
    Missing,
}

impl ReadResult {
    /// Returns the live value, if there is one.
    #[cfg(test)]
    pub fn into_value(self) -> Option<StoredValue> {
        match self {
            Self::Live(value) => Some(value),
            Self::Deleted(_) | Self::Missing => None,
        }
    }
}

/// Condition for a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// No condition.
    #[default]
    None,
    /// `If-Match: *`: the key exists.
    Exists,
    /// `If-None-Match: *`: the key doesn't exist.
    Absent,
    /// `If-Match: "..."`: the key has one of these versions.
    Versions(Vec<Version>),
    /// `If-None-Match: "..."`: the key has none of these versions.
    NotVersions(Vec<Version>),
}

/// Expiry that a write gives its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// It never expires.
    #[default]
    Never,
    /// It expires this long after the write.
    After(Duration),
    /// It expires at this time.
    At(Nanos),
}

/// A write of a value.
#[derive(Clone, Debug)]
pub struct Put {
    /// The value.
    pub value: Bytes,
    /// `Content-Type` to return with it; empty if none was given.
    pub content_type: Bytes,
    /// Metadata of the user: a JSON object, compact, in ASCII; empty if there is none.
    pub metadata: Bytes,
    /// Expiry.
    pub expiry: Expiry,
    /// Condition for the write.
    pub precondition: Precondition,
}

/// A write that keeps the value of a live key.
#[derive(Clone, Debug)]
pub struct Touch {
    /// New expiry; `None` keeps it.
    pub expiry: Option<Expiry>,
    /// New metadata, empty for none; `None` keeps it.
    pub metadata: Option<Bytes>,
    /// Condition for the write.
    pub precondition: Precondition,
}

/// A write of a key.
#[derive(Clone, Debug)]
pub enum KeyWrite {
    /// Writes a value.
    Put(Put),
    /// Changes expiry or metadata of a live key.
    Touch(Touch),
    /// Deletes the key, if there is one.
    Delete(Precondition),
}

/// Result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteReceipt {
    /// Version of the write.
    pub version: Version,
    /// True if the key existed before and had not expired.
    pub existed: bool,
    /// Time of the key's expiry; `None` if it never expires.
    pub expires_at: Option<Nanos>,
}

/// Query for a list of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Prefix of the keys.
    pub prefix: Bytes,
    /// Lowest key, inclusive; `None` for no bound.
    pub from: Option<Bytes>,
    /// Highest key, exclusive; `None` for no bound.
    pub to: Option<Bytes>,
    /// Keys that have this after the prefix are listed as their common prefixes; empty for none.
    pub delimiter: Bytes,
    /// True for a descending order.
    pub is_reverse: bool,
    /// True if values are listed, too.
    pub with_values: bool,
    /// Maximum number of keys and common prefixes.
    pub limit: usize,
    /// Maximum size of all values in bytes; one entry is listed in any case.
    pub max_value_bytes: usize,
    /// Maximum number of rows that are read where few of them are live; `None` for no bound.
    pub max_rows: Option<usize>,
    /// True if the page tells the index of the shard's log that it was read at.
    pub with_index: bool,
}

impl ListQuery {
    /// Returns the common prefix under which a key is listed: up to and with the first delimiter
    /// behind the query's prefix. `None` if the key has none.
    pub fn common_prefix<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        let delimiter = &self.delimiter[..];
        if delimiter.is_empty() {
            return None;
        }
        let mut parts = key.strip_prefix(&self.prefix[..])?.windows(delimiter.len());
        let at = parts.position(|part| part == delimiter)?;
        key.get(..self.prefix.len() + at + delimiter.len())
    }
}

/// Entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// A key.
    Key(KeyInfo),
    /// A common prefix of keys, up to and with the delimiter.
    Prefix(Bytes),
}

impl ListEntry {
    /// Key or common prefix.
    pub fn name(&self) -> &Bytes {
        match self {
            Self::Key(info) => &info.key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// Key in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyInfo {
    /// Name of the key.
    pub key: Bytes,
    /// Size of its value, in bytes.
    pub size: u64,
    /// Version of its last write.
    pub version: Version,
    /// Time of its expiry; `None` if it never expires.
    pub expires_at: Option<Nanos>,
    /// `Content-Type` of the write; empty if none was given.
    pub content_type: Bytes,
    /// Metadata of the user; empty if there is none.
    pub metadata: Bytes,
    /// The value, if the query is for values.
    pub value: Option<Bytes>,
}

/// Request to create a bucket.
#[derive(Clone, Debug)]
pub struct CreateBucket {
    /// Account that owns the bucket; `None` for a new one.
    pub account: Option<AccountId>,
    /// Access mode.
    pub access: Access,
    /// Plan; `None` for the lowest that includes the access mode.
    pub plan: Option<Plan>,
    /// Comment of the user.
    pub comment: Option<String>,
    /// Time to live of writes that name no expiry; `None`: they never expire.
    pub default_ttl: Option<Duration>,
}

/// Created bucket.
#[derive(Clone, Debug)]
pub struct CreatedBucket {
    /// Key of the account created with it; `None` if the account existed.
    pub new_account_key: Option<String>,
    /// Name of the bucket.
    pub id: BucketId,
    /// Access mode.
    pub access: Access,
    /// Plan.
    pub plan: Plan,
}

/// Change of a bucket; `None` keeps a value.
#[derive(Clone, Debug, Default)]
pub struct ModifyBucket {
    /// Comment of the user; `Some("")` removes it.
    pub comment: Option<String>,
    /// Plan.
    pub plan: Option<Plan>,
    /// Time to live of writes that name no expiry; `Some(None)` removes it.
    pub default_ttl: Option<Option<Duration>>,
}

/// Bucket as its owner sees it.
#[derive(Clone, Debug)]
pub struct BucketSummary {
    /// Name of the bucket.
    pub id: BucketId,
    /// Access mode.
    pub access: Access,
    /// Plan.
    pub plan: Plan,
    /// Time of creation.
    pub created_at: Nanos,
    /// Comment of the user.
    pub comment: Option<String>,
    /// Time to live of writes that name no expiry; `None`: they never expire.
    pub default_ttl: Option<Duration>,
    /// Live keys, as published at most 10 s ago.
    pub estimated_keys: u64,
    /// Reads that found their key.
    pub key_get_success: u64,
    /// Reads that found no key.
    pub key_get_failed: u64,
}
