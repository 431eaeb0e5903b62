//! Directories of the state while a copy replaces it, and the file that marks it as damaged.
//!
//! Invariant: `state` is complete at all times except between two renames; then `state.new` is
//! complete, and the existence of `state.damaged` shows that it is to replace `state`. Only a copy
//! that is complete and flushed is ever renamed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file that marks a data directory whose state has damaged files.
const MARK_FILE: &str = "state-damaged";

/// Directories of a state, and its marker file.
pub(super) struct StateDirs {
    data: PathBuf,
}

impl StateDirs {
    /// Creates those of a data directory.
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            data: data_dir.to_owned(),
        }
    }

    /// Returns the directory of the state.
    pub(super) fn state(&self) -> PathBuf {
        self.data.join("state")
    }

    /// Returns the directory of a copy of the state, until it replaces the state.
    pub(super) fn new_state(&self) -> PathBuf {
        self.data.join("state.new")
    }

    /// Returns the directory of the state that a copy has replaced, until it is removed.
    pub(super) fn old_state(&self) -> PathBuf {
        self.data.join("state.damaged")
    }

    /// Returns the directory of a copy of the state that is used in its place for some time, and
    /// removed when the state is opened again.
    pub(super) fn copy(&self) -> PathBuf {
        self.data.join("state.copy")
    }

    fn mark(&self) -> PathBuf {
        self.data.join(MARK_FILE)
    }

    /// Returns whether the state is marked as having damaged files.
    pub(super) fn is_marked(&self) -> bool {
        self.mark().exists()
    }

    /// Marks the state as having damaged files: durable when this returns.
    pub(super) fn set_mark(&self, reason: &str) -> io::Result<()> {
        fs::write(self.mark(), reason)?;
        File::open(self.mark())?.sync_all()?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.data)?.sync_all()
    }

    /// Finishes or undoes a replacement that a crash has interrupted. No state may be open.
    pub(super) fn finish_replacement(&self) -> io::Result<()> {
        if !self.state().exists() && self.old_state().exists() {
            fs::rename(self.new_state(), self.state())?;
            self.sync()?;
            self.remove_mark()?;
        }
        for leftover in [self.new_state(), self.old_state(), self.copy()] {
            if leftover.exists() {
                fs::remove_dir_all(leftover)?;
            }
        }
        Ok(())
    }

    fn remove_mark(&self) -> io::Result<()> {
        match fs::remove_file(self.mark()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.sync()
    }

    /// Replaces the old state with the new one, which is complete. No state may be open.
    pub(super) fn replace(&self) -> io::Result<()> {
        fs::rename(self.state(), self.old_state())?;
        self.sync()?;
        fs::rename(self.new_state(), self.state())?;
        self.sync()?;
        self.remove_mark()?;
        fs::remove_dir_all(self.old_state())
    }
}
