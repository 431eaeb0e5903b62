//! Versions and records.
//!
//! Values are not modelled: a version is made once, so it names the value.

/// Maximum number of regions.
pub(crate) const MAX_REGIONS: usize = 3;
/// Maximum number of keys. Key 0 is the only one in the bucket that may be deleted.
pub(crate) const MAX_KEYS: usize = 2;
/// The key whose bucket may be deleted.
pub(crate) const BUCKET_KEY: usize = 0;

/// A version; ordered by time, then region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    pub time: u8,
    pub region: u8,
}

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Value,
    /// A value with a time to live, which may expire in any region at any time.
    Expiring,
    Tombstone,
}

/// A region's record of a key, with its place in its origin's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub version: Version,
    pub kind: Kind,
    pub incarnation: u8,
    pub seq: u8,
}

impl Record {
    pub(crate) fn is_tombstone(&self) -> bool {
        self.kind == Kind::Tombstone
    }

    pub(crate) fn rank(&self) -> Rank {
        Rank {
            version: self.version,
            tombstone: self.is_tombstone(),
        }
    }
}

/// Precedence of a record: the higher version wins, at equal versions the tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rank {
    pub version: Version,
    pub tombstone: bool,
}

/// A record or `None` for each key.
pub(crate) type Records = [Option<Record>; MAX_KEYS];
