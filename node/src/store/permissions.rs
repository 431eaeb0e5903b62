//! Permissions of the data directory: it is accessible only to the user that the node runs as,
//! since it holds values of protected buckets in plain text.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// Permission bits of other users and of the owner's group.
const OTHERS_MODE: u32 = 0o077;

/// Mode bits of a directory for all users (sticky and world-writable): it is never restricted,
/// since it can't belong to the node alone.
const SHARED_DIR_MODE: u32 = 0o1002;

/// Names of all entries that a node creates in its data directory. Other entries are left alone.
const DATA_DIR_ENTRIES: [&str; 18] = [
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
    "recovery.json",
    "recovery.json.new",
    "rejoin-scope.json",
    "recovered",
    "recovered.new",
    "before-recovery",
];

/// Error of a file or directory that other users can access, and that this process can't restrict.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} can be reached by other users of the machine (its mode is {mode:03o}), and can't be closed \
     to them: as its owner, run `chmod -R go= {}`, or give another --data-dir",
    .path.display(),
    .dir.display()
)]
pub struct InsecurePermissions {
    path: PathBuf,
    dir: PathBuf,
    mode: u32,
    /// Error of the system.
    #[source]
    source: io::Error,
}

/// Sets the umask so that created files are accessible only to this user.
pub(crate) fn restrict_umask() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Removes other users' permissions from a data directory and all of the node's entries in it:
/// blocks. Symbolic links are left alone.
///
/// # Errors
/// Fails if an entry accessible to others belongs to another user, or the directory is for all.
pub(super) fn restrict_permissions(dir: &Path) -> Result<(), InsecurePermissions> {
    let mut closed = 0_usize;
    // Follows a link: its target counts.
    if let Ok(meta) = fs::metadata(dir) {
        closed += restrict(dir, &meta, dir)?;
    }
    let mut paths: Vec<PathBuf> = DATA_DIR_ENTRIES.iter().map(|name| dir.join(name)).collect();
    while let Some(path) = paths.pop() {
        // Files may be missing, or be removed meanwhile.
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_symlink() {
            continue;
        }
        closed += restrict(&path, &meta, dir)?;
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

/// Restricts one file or directory. Returns 1 if that changed its mode, else 0.
fn restrict(path: &Path, meta: &Metadata, dir: &Path) -> Result<usize, InsecurePermissions> {
    let mode = meta.permissions().mode() & 0o7777;
    if mode & OTHERS_MODE == 0 {
        return Ok(0);
    }
    if mode & SHARED_DIR_MODE == SHARED_DIR_MODE {
        return Err(InsecurePermissions {
            path: path.to_owned(),
            dir: dir.to_owned(),
            mode,
            source: io::Error::other("it is a directory for all users"),
        });
    }
    match fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS_MODE)) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(InsecurePermissions {
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
    fn the_nodes_entries_are_restricted_and_nothing_else() {
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
        restrict_permissions(&data).unwrap();
        assert_eq!(
            (mode(&data), mode(&deep), mode(&file)),
            (0o700, 0o700, 0o600)
        );
        assert_eq!((mode(&outside), mode(&foreign)), (0o644, 0o644));
        restrict_permissions(&data).unwrap();
        restrict_permissions(&data.join("missing")).unwrap();
    }

    #[test]
    fn a_directory_for_all_users_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        let error = restrict_permissions(dir.path()).unwrap_err().to_string();
        assert!(error.contains("1777") && error.contains("chmod"), "{error}");
        assert_eq!(mode(dir.path()), 0o777);
    }
}
