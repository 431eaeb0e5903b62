//! Directories whose entries survive a power loss.
//!
//! A synced file is lost with its name, unless its directory was synced after the file was created,
//! renamed or removed; and a directory is itself an entry of another one.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes the entries of a directory durable: blocks.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory with its parents, if it is missing. Its name is durable when this returns:
/// blocks.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|it| !it.exists()).collect();
    fs::create_dir_all(dir)?;
    // An existing directory may have been created just before a crash.
    let created = missing.into_iter().chain([dir]);
    for parent in created.filter_map(Path::parent) {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        match sync_dir(parent) {
            // A directory of another user, in which this process can't have created anything.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_created_with_its_parents_and_may_exist() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir(&deep).unwrap();
        create_dir(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(create_dir(&dir.path().join("file/a")).is_err());
    }
}
