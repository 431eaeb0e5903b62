//! Position up to which the log was synced, stored apart from the log.
//!
//! After a crash the log itself can't distinguish a tail that was never synced, which may be
//! dropped, from one that was synced and is damaged. So after each sync the position that it
//! covered is written to a small file, which costs no sync of its own. A crash of the machine may
//! leave an older position there, never a newer one. A log that ends before it has lost
//! acknowledged records: then the node must not continue as if nothing had happened, since its vote
//! for those entries would count twice.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const FILE_NAME: &str = "log-synced";

/// File with the position up to which the log was synced.
pub(super) struct SyncedMark {
    file: File,
}

impl SyncedMark {
    /// Opens the file in the data directory, and reads the position; 0 if the file is new.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, u64)> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(dir.join(FILE_NAME))?;
        let mut bytes = [0; 8];
        let mark = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => u64::from_be_bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        Ok((Self { file }, mark))
    }

    /// Writes the position up to which everything was synced.
    pub(super) fn set(&self, position: u64) -> io::Result<()> {
        self.file.write_all_at(&position.to_be_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_position_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (mark, new) = SyncedMark::open(dir.path()).unwrap();
        assert_eq!(new, 0);
        mark.set(7).unwrap();
        mark.set(u64::MAX - 1).unwrap();
        assert_eq!(SyncedMark::open(dir.path()).unwrap().1, u64::MAX - 1);
    }
}
