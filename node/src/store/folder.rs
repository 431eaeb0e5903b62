//! Folders whose names outlive a power loss.
//!
//! A file that was synced is gone with its name, unless the folder that holds the name was synced
//! after the file was made, renamed or removed; and a folder is a name in another one.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes the names in a folder durable: blocks.
pub fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a folder with those above it, if it isn't there; its name is durable when this returns:
/// blocks.
pub fn make_folder(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|it| !it.exists()).collect();
    fs::create_dir_all(dir)?;
    // One that is there may have been made just before a crash.
    let made = missing.into_iter().chain([dir]);
    for parent in made.filter_map(Path::parent) {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        match sync_folder(parent) {
            // A folder of somebody else's, that this process can't have made anything in.
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
    fn a_folder_is_made_with_those_above_it_and_may_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        make_folder(&deep).unwrap();
        make_folder(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_folder(&dir.path().join("file/a")).is_err());
    }
}
