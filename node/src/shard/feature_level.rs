//! Feature levels of shards that this version supports.

use std::io;

/// Highest feature level of shards that this version supports.
pub(crate) const MAX_FEATURE_LEVEL: u32 = 1;

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
