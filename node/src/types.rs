//! The words that all parts of the node share: names, requests and results, without any HTTP.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;

/// Hybrid time in nanoseconds since 1970.
pub type Nanos = u64;

/// The version of a key: unique within a key, rising within a shard of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// Hybrid time of the write.
    pub time: Nanos,
    /// Number of the region that wrote it.
    pub region: u32,
}

impl From<Version> for pb::Version {
    fn from(version: Version) -> Self {
        Self {
            time: version.time,
            region: version.region,
        }
    }
}

impl From<pb::Version> for Version {
    fn from(version: pb::Version) -> Self {
        Self {
            time: version.time,
            region: version.region,
        }
    }
}

/// The name of a bucket: `a` and 13 characters of base62. It is a credential of public buckets,
/// so its `Debug` form, the one that gets into logs, is cut short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId([u8; BucketId::LEN]);

impl BucketId {
    /// Length of every bucket ID, in bytes.
    pub const LEN: usize = 14;

    /// Reads an ID as it stands in a path; `None` if no bucket can have that name.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::LEN] = text.try_into().ok()?;
        let sane = bytes[0] == b'a' && bytes.iter().all(u8::is_ascii_alphanumeric);
        sane.then_some(Self(bytes))
    }

    /// A new ID from the system's random source.
    pub fn random() -> Result<Self, getrandom::Error> {
        const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut id = [b'a'; Self::LEN];
        let mut at = 1;
        while at < Self::LEN {
            let mut random = [0_u8; 32];
            getrandom::fill(&mut random)?;
            // Values past the last multiple of 62 would favour some characters.
            for byte in random.into_iter().filter(|byte| *byte < 248) {
                if at < Self::LEN {
                    id[at] = BASE62[usize::from(byte % 62)];
                    at += 1;
                }
            }
        }
        Ok(Self(id))
    }

    /// The whole name, for answers to who knows it already.
    pub fn as_str(&self) -> &str {
        // Only ASCII letters and digits get in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for BucketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}...", &self.as_str()[..5])
    }
}

/// An account: the SHA-256 of its key. The key itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub [u8; 32]);

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}...", self.0[0], self.0[1])
    }
}

/// Who may use a bucket without its account's key.
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
    /// The name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::PublicRead => "public-read",
            Self::Protected => "protected",
        }
    }

    /// Reads a name, `read-public` included, which the API's documentation uses as well.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "public" => Some(Self::Public),
            "public-read" | "read-public" => Some(Self::PublicRead),
            "protected" => Some(Self::Protected),
            _ => None,
        }
    }
}

/// What a bucket costs and may hold.
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

    /// The name in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Pro => "pro",
            Self::Business => "business",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.name() == name)
    }
}

/// A stored value as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value's bytes, shared with whoever else holds them.
    pub value: Bytes,
    /// The `Content-Type` given with the write; empty if none was.
    pub content_type: Bytes,
    /// The write that made it.
    pub version: Version,
    /// When it expires; `None`: never.
    pub expires_at: Option<Nanos>,
}

/// What a read finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReadResult {
    /// The live entry.
    Found(Entry),
    /// What is left of one that was deleted or has expired: the version that a reader has seen.
    Gone(Version),
    /// Nothing.
    #[default]
    Nothing,
}

impl ReadResult {
    /// The live entry, if there is one.
    #[cfg(test)]
    pub fn entry(self) -> Option<Entry> {
        match self {
            Self::Found(entry) => Some(entry),
            Self::Gone(_) | Self::Nothing => None,
        }
    }
}

/// What must hold for a write to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
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

/// A write of a value.
#[derive(Clone, Debug)]
pub struct Put {
    /// The value.
    pub value: Bytes,
    /// The `Content-Type` to give back with it; empty: none was given.
    pub content_type: Bytes,
    /// Time to live; `None`: for ever.
    pub ttl: Option<Duration>,
    /// What must hold.
    pub precondition: Precondition,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The write's version.
    pub version: Version,
    /// Whether the key was there before (and had not expired).
    pub existed: bool,
    /// When the key expires; `None`: never.
    pub expires_at: Option<Nanos>,
}

/// Which keys to list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Only keys that begin with these bytes.
    pub prefix: Bytes,
    /// Only keys after this one.
    pub after: Option<Bytes>,
    /// At most so many.
    pub limit: usize,
}

/// A key in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name.
    pub key: Bytes,
    /// Size of its value, in bytes.
    pub size: u64,
    /// The write that made it.
    pub version: Version,
    /// When it expires; `None`: never.
    pub expires_at: Option<Nanos>,
}

/// A request for a bucket.
#[derive(Clone, Debug)]
pub struct CreateBucket {
    /// The account that the bucket joins; `None`: a new one.
    pub account: Option<AccountId>,
    /// Its access mode.
    pub access: Access,
    /// Its plan; `None`: the lowest that offers the access mode.
    pub plan: Option<Plan>,
    /// The user's note on it.
    pub comment: Option<String>,
}

/// A new bucket.
#[derive(Clone, Debug)]
pub struct CreatedBucket {
    /// The key of the account made with it; `None` if the bucket joined one.
    pub new_account_key: Option<String>,
    /// The bucket's name.
    pub id: BucketId,
    /// Its access mode.
    pub access: Access,
    /// Its plan.
    pub plan: Plan,
}

/// A change of a bucket; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub struct ModifyBucket {
    /// The user's note on it; `Some("")` removes it.
    pub comment: Option<String>,
    /// Its plan.
    pub plan: Option<Plan>,
}

/// A bucket as its owner sees it.
#[derive(Clone, Debug)]
pub struct BucketSummary {
    /// Its name.
    pub id: BucketId,
    /// Its access mode.
    pub access: Access,
    /// Its plan.
    pub plan: Plan,
    /// When it was created.
    pub created_at: Nanos,
    /// The user's note on it.
    pub comment: Option<String>,
    /// Live keys, as published at most 10 s ago.
    pub estimated_keys: u64,
    /// Reads that found their key.
    pub key_get_success: u64,
    /// Reads that found none.
    pub key_get_failed: u64,
}
