//! What a node imports again after its region has joined the others anew, as it is decided while the
//! node still runs among them.
//!
//! An imported key gets a new version, so what is imported must be the newest that any survivor of
//! the region has, and nothing that the other regions have had already:
//! - of each shard one node imports: else a replica that lags could import an older value first,
//!   which would hide the newer one of another node;
//! - what is at or below the watermark that the other regions know of this one is left out. They
//!   have had it, or a newer version; if that was a deletion, its tombstone may be collected by
//!   now, and an import would bring the old value back.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::replace_file;
use crate::types::{Nanos, Version};

/// Name of the file in the data directory.
pub(crate) const SCOPE_FILE: &str = "rejoin-scope.json";

/// What a node imports again after its region has joined anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RejoinScope {
    /// Number under which the region leaves.
    pub region: u32,
    /// Scopes of the shards, in the order of their numbers; a shard without one is imported as a
    /// whole.
    pub shards: Vec<ShardScope>,
}

/// What a node imports of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardScope {
    /// False if another survivor imports the shard: its leader, or the one with the most entries.
    pub is_imported: bool,
    /// Watermark of the region that every other region has received; 0 if it isn't known.
    pub watermark: Nanos,
}

impl RejoinScope {
    /// Returns whether a version in a shard needs no import. `members` are the numbers of the
    /// regions that stay: each has its own writes, and sends them itself.
    pub(crate) fn is_known(&self, shard: u16, version: Version, members: &[u32]) -> bool {
        if version.region != self.region && members.contains(&version.region) {
            return true;
        }
        let scope = self.shards.get(usize::from(shard));
        scope.is_some_and(|scope| {
            let is_received = version.region == self.region && version.time <= scope.watermark;
            !scope.is_imported || is_received
        })
    }

    /// Stores the scope in a file of `dir`, durably and atomically. Blocks.
    pub(crate) fn write(&self, dir: &Path, file: &str) -> io::Result<()> {
        replace_file(dir, file, &serde_json::to_vec_pretty(self)?)
    }

    /// Reads the scope in a file of `dir`; `None` if there is none. Blocks.
    pub(crate) fn read(dir: &Path, file: &str) -> io::Result<Option<Self>> {
        match fs::read(dir.join(file)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the scope from the data directory `dir`, durably, if there is one. Blocks.
    pub(crate) fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(SCOPE_FILE)) {
            Ok(()) => File::open(dir)?.sync_all(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> RejoinScope {
        let shard = |is_imported, watermark| ShardScope {
            is_imported,
            watermark,
        };
        RejoinScope {
            region: 2,
            shards: vec![shard(true, 10), shard(false, 0)],
        }
    }

    fn is_known(shard: u16, time: u64, region: u32) -> bool {
        scope().is_known(shard, Version { time, region }, &[1, 3])
    }

    #[test]
    fn what_other_regions_have_had_is_known() {
        assert!(is_known(0, 10, 2));
        assert!(!is_known(0, 11, 2));
        // What another region wrote, it has itself; a removed one isn't there any more.
        assert!(is_known(0, 11, 3));
        assert!(!is_known(0, 9, 4));
    }

    #[test]
    fn a_shard_is_imported_by_one_node() {
        assert!(is_known(1, 11, 2));
        assert!(is_known(1, 11, 4));
        // Nothing is known of the others.
        assert!(!is_known(2, 1, 2));
    }

    #[test]
    fn a_scope_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(RejoinScope::read(dir, SCOPE_FILE).unwrap(), None);
        scope().write(dir, SCOPE_FILE).unwrap();
        assert_eq!(RejoinScope::read(dir, SCOPE_FILE).unwrap(), Some(scope()));
        RejoinScope::remove(dir).unwrap();
        RejoinScope::remove(dir).unwrap();
        assert_eq!(RejoinScope::read(dir, SCOPE_FILE).unwrap(), None);
    }
}
