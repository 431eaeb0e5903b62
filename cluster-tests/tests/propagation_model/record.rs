//! Versions and records.
//!
//! Values are not modelled: a version is made once, so it names the value.

/// Regions at most.
pub const REGIONS: usize = 3;
/// Keys at most. Key 0 is alone in the bucket that may be deleted.
pub const KEYS: usize = 2;
/// The key whose bucket may be deleted.
pub const BUCKET_KEY: usize = 0;

/// (time, region): the order of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub time: u8,
    pub region: u8,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Value,
    /// A value with a time to live, which any region may find expired at any time.
    Expiring,
    Tombstone,
}

/// What a region holds for a key, and where in its origin's history it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub version: Version,
    pub kind: Kind,
    pub incarnation: u8,
    pub seq: u8,
}

impl Record {
    pub fn is_tombstone(&self) -> bool {
        self.kind == Kind::Tombstone
    }

    pub fn rank(&self) -> Rank {
        Rank {
            version: self.version,
            tombstone: self.is_tombstone(),
        }
    }
}

/// The order in which records win: at equal version the tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    pub version: Version,
    pub tombstone: bool,
}

/// One record or nothing for each key.
pub type Records = [Option<Record>; KEYS];
