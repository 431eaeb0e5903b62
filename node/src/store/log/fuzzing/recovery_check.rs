//! Recovery from files, and checks of its result.

#![allow(clippy::unwrap_used, reason = "a panic is a finding")]

use tempfile::TempDir;

use crate::store::error::StoreError;
use crate::store::log::frame::{self, ENTRY_HEADER_BYTES, FrameKind};
use crate::store::log::index::LogPosition;
use crate::store::log::recovery::{Recovered, recover};
use crate::store::log::segment::SegmentFile;

/// Folder in memory, where the system has one.
const MEMORY_DIR: &str = "/dev/shm";

/// Recovers the log from files with these contents.
pub(super) fn recover_files<'a>(
    files: impl IntoIterator<Item = &'a Vec<u8>>,
    synced: LogPosition,
) -> Result<Recovered, StoreError> {
    // The files are read after the folder is removed.
    let dir = tempfile::tempdir_in(MEMORY_DIR)
        .or_else(|_| TempDir::new())
        .unwrap();
    for (slot, contents) in files.into_iter().enumerate() {
        std::fs::write(dir.path().join(format!("{slot:08}.log")), contents).unwrap();
    }
    recover(SegmentFile::open_all(dir.path()).unwrap(), synced)
}

/// Checks that a recovered log has no gap, and that its files hold the entries that it says.
pub(super) fn check_recovered(recovered: &Recovered, synced: LogPosition) {
    let end = recovered.end.map_or(LogPosition::default(), |end| end.at);
    assert!(end >= synced, "synced records were lost");
    let numbers: Vec<u64> = recovered.segments.keys().copied().collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "a segment is missing among {numbers:?}"
    );
    let mut bytes = 0;
    for (group, log) in recovered.index.groups() {
        for (number, place) in &log.entries {
            bytes += u64::from(place.len);
            // Positions hold the lower half of a segment's number, which is all of it.
            let Some(file) = recovered.segments.get(&place.at.segment()) else {
                continue;
            };
            let begin = place.at.offset() - ENTRY_HEADER_BYTES as u64;
            let length = ENTRY_HEADER_BYTES + usize::try_from(place.len).unwrap();
            let record = file.read(begin, length).unwrap();
            let entry = frame::read(&record).unwrap();
            assert!(matches!(
                entry.kind,
                Some(FrameKind::Entry | FrameKind::Relocated)
            ));
            assert_eq!((entry.group, entry.len()), (group, length));
            assert_eq!(entry.split_number().unwrap().0, *number);
        }
    }
    assert_eq!(recovered.index.bytes(), bytes);
}
