//! The data directory is for the user that the node runs as, and for nobody else: values of protected
//! buckets lie in it as they are.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// What other users, and the owner's group, may do.
const OTHERS: u32 = 0o077;

/// A folder that is meant for all users: never closed, since it can't be the node's alone.
const SHARED: u32 = 0o1002;

/// What a node keeps in its data directory. Anything else there is somebody else's concern.
const OURS: [&str; 12] = [
    "LOCK",
    "log",
    "log-synced",
    "state",
    "state.new",
    "state.damaged",
    "state-damaged",
    "identity.json",
    "identity.json.new",
    "addresses.json",
    "addresses.json.new",
    "replica-differs",
];

/// A file or folder that others can get at, and that this process can't close to them.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} can be reached by other users of the machine (its mode is {mode:03o}), and can't be closed \
     to them: as its owner, run `chmod -R go= {}`, or give another --data-dir",
    .path.display(),
    .dir.display()
)]
pub struct OpenToOthers {
    path: PathBuf,
    dir: PathBuf,
    mode: u32,
    /// What the system said.
    #[source]
    source: io::Error,
}

/// Makes whatever this process creates from here on its user's alone, whatever umask it was started
/// with. Call it before there are threads that create files.
pub fn create_private_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Closes a data directory to other users, with all that a node keeps there: blocks. Links are left
/// alone.
///
/// # Errors
/// When something is open to others that belongs to somebody else, or the directory is for all.
pub(super) fn close_to_others(dir: &Path) -> Result<(), OpenToOthers> {
    let mut closed = 0_usize;
    // What dir itself may be a link to is what counts.
    if let Ok(meta) = fs::metadata(dir) {
        closed += close(dir, &meta, dir)?;
    }
    let mut paths: Vec<PathBuf> = OURS.iter().map(|name| dir.join(name)).collect();
    while let Some(path) = paths.pop() {
        // Files may be missing, or go meanwhile.
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_symlink() {
            continue;
        }
        closed += close(&path, &meta, dir)?;
        if meta.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
    }
    if closed > 0 {
        let dir = dir.display();
        tracing::warn!(%dir, closed, "data directory was open to other users; closed");
    }
    Ok(())
}

/// Closes one file or folder; says how many that were.
fn close(path: &Path, meta: &Metadata, dir: &Path) -> Result<usize, OpenToOthers> {
    let mode = meta.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(0);
    }
    if mode & SHARED == SHARED {
        return Err(OpenToOthers {
            path: path.to_owned(),
            dir: dir.to_owned(),
            mode,
            source: io::Error::other("it is a folder for all users"),
        });
    }
    match fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS)) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(OpenToOthers {
            path: path.to_owned(),
            dir: dir.to_owned(),
            mode,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_the_node_keeps_is_closed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let (deep, file) = (data.join("log/deep"), data.join("log/deep/file"));
        let outside = dir.path().join("outside");
        fs::create_dir_all(&deep).unwrap();
        for path in [&file, &outside] {
            fs::write(path, "x").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        for path in [&data, &deep] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let foreign = data.join("foreign");
        fs::copy(&outside, &foreign).unwrap();
        symlink(&outside, data.join("log/link")).unwrap();
        close_to_others(&data).unwrap();
        assert_eq!(
            (mode(&data), mode(&deep), mode(&file)),
            (0o700, 0o700, 0o600)
        );
        assert_eq!((mode(&outside), mode(&foreign)), (0o644, 0o644));
        close_to_others(&data).unwrap();
        close_to_others(&data.join("missing")).unwrap();
    }

    #[test]
    fn a_folder_for_all_users_is_refused_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        let error = close_to_others(dir.path()).unwrap_err().to_string();
        assert!(error.contains("1777") && error.contains("chmod"), "{error}");
        assert_eq!(mode(dir.path()), 0o777);
    }
}
