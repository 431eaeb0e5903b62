//! Feature levels of shards that this version supports.

use std::io;

use cloudkv_proto::v1 as pb;

/// Highest feature level of shards that this version supports.
pub(crate) const MAX_FEATURE_LEVEL: u32 = 2;

/// Level of a shard that is bootstrapped now: its leader raises it when a write needs that.
pub(crate) const FIRST_LEVEL: u32 = 1;

/// First level with metadata of keys, touches, and puts with a time of expiry. A node makes such a
/// write, a batch, or a query of a list that is more than a prefix and a first key, only once it has
/// applied this level of the metadata: then all nodes know them.
pub(crate) const KEY_METADATA_LEVEL: u32 = 2;

/// Returns whether records need [`KEY_METADATA_LEVEL`]. Who sends them knows that all nodes have it.
pub(crate) fn have_metadata(records: &[pb::KeyRecord]) -> bool {
    let mut records = records.iter().filter_map(|it| it.record.as_ref());
    records.any(|record| !record.metadata.is_empty())
}

/// Checks that this version supports a feature level, of a command or of the stored state.
pub(super) fn check_feature_level(level: u32) -> io::Result<()> {
    if level > MAX_FEATURE_LEVEL {
        return Err(unsupported_item(&format!(
            "feature level {level} (this one knows up to {MAX_FEATURE_LEVEL})"
        )));
    }
    Ok(())
}

/// Builds the error of an item that a later version has written.
pub(super) fn unsupported_item(item: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("the shard has {item} that this version of cloudkv-node does not know: upgrade it"),
    )
}
