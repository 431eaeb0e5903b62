//! Hybrid times, and the versions made of them.

use std::time::Duration;

use cloudkv_proto::v1 as pb;

/// Hybrid time in nanoseconds since 1970.
pub(crate) type Nanos = u64;

/// Converts a duration to nanoseconds.
pub(crate) fn to_nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Version of a key: unique within a key, and rising within a shard of a region.
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
