//! A small file system that fills up as a real disk does.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Number of bytes written at once.
const WRITE_BYTES: usize = 1 << 20;

/// A file system in memory, unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Mounts a file system of `mib` MiB and links to it from `link`; returns `None`, and prints
    /// why, where nothing can be mounted.
    ///
    /// # Panics
    /// Panics if the link can't be made.
    pub fn mount(link: &Path, mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("make the folder of a small disk");
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={mib}m,mode=0700"),
            "tmpfs",
        ]);
        match mount.arg(dir.path()).output() {
            Ok(output) if output.status.success() => {
                symlink(dir.path(), link).expect("link to a small disk");
                Some(Self { dir })
            }
            result => {
                eprintln!("skipped: no file system can be mounted here: {result:?}");
                None
            }
        }
    }

    /// Returns the number of free bytes.
    ///
    /// # Panics
    /// Panics if the system doesn't report it.
    pub fn free_bytes(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.dir.path()).expect("read a disk's free space");
        disk.f_bavail * disk.f_frsize
    }

    /// Fills the disk until so many MiB are free.
    ///
    /// # Panics
    /// Panics if the space can't be filled.
    pub fn fill_until_free(&self, mib: u64) {
        let to_fill = self.free_bytes().saturating_sub(mib << 20);
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast_path())
            .expect("open the ballast");
        let mut remaining = usize::try_from(to_fill).expect("a small disk");
        let piece = vec![1; WRITE_BYTES];
        while remaining > 0 {
            let size = remaining.min(WRITE_BYTES);
            file.write_all(&piece[..size]).expect("write the ballast");
            remaining -= size;
        }
    }

    /// Releases the filled space.
    ///
    /// # Panics
    /// Panics if it can't be released.
    pub fn remove_ballast(&self) {
        fs::remove_file(self.ballast_path()).expect("remove the ballast");
    }

    fn ballast_path(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The node on it may not have exited yet: a lazy unmount waits for it.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.dir.path())
            .output();
    }
}
