//! A small disk of its own, which fills up as a real one does.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// How much is written at once.
const PIECE: usize = 1 << 20;

/// A file system in memory, which ends when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    /// Makes a disk of so many MiB, to which `link` leads; `None`, and a word on standard error, where
    /// nothing can be mounted.
    ///
    /// # Panics
    /// When the link can't be made.
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
            Ok(done) if done.status.success() => {
                symlink(dir.path(), link).expect("link to a small disk");
                Some(Self { dir })
            }
            told => {
                eprintln!("skipped: no file system can be mounted here: {told:?}");
                None
            }
        }
    }

    /// Bytes that are free.
    ///
    /// # Panics
    /// When the system doesn't tell.
    pub fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.dir.path()).expect("ask for a disk's room");
        disk.f_bavail * disk.f_frsize
    }

    /// Takes room away until so many MiB are free.
    ///
    /// # Panics
    /// When it can't be taken.
    pub fn leave(&self, mib: u64) {
        let free = self.free().saturating_sub(mib << 20);
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("open the ballast");
        let mut left = usize::try_from(free).expect("a small disk");
        let piece = vec![1; PIECE];
        while left > 0 {
            let now = left.min(PIECE);
            file.write_all(&piece[..now]).expect("write the ballast");
            left -= now;
        }
    }

    /// Gives back what was taken.
    ///
    /// # Panics
    /// When it can't be given back.
    pub fn clear(&self) {
        fs::remove_file(self.ballast()).expect("remove the ballast");
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The node on it may not have ended yet: it goes when it has.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.dir.path())
            .output();
    }
}
