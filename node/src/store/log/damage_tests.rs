//! Tests of entries that the disk has changed since they were written.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::SegmentLog;
use super::frame::ENTRY_HEADER_BYTES;
use super::model_tests::{Model, Step, open, perform};
use crate::store::error::{Cause, StoreError};
use crate::store::keys::GroupId;

const GROUP: GroupId = GroupId(1);

/// Creates a log with a few entries, each on the disk.
fn filled(dir: &TempDir) -> SegmentLog {
    let log = open(dir);
    let mut model = Model::default();
    for number in 1..=6 {
        let step = Step::Append(GROUP.0, vec![500], fill(number));
        perform(&log, &mut model, &step);
    }
    log
}

/// Returns the byte that an entry is filled with.
fn fill(number: u8) -> u8 {
    100 + number
}

fn segment_file(dir: &TempDir) -> PathBuf {
    let mut files = std::fs::read_dir(dir.path().join("log")).unwrap();
    files.next().unwrap().unwrap().path()
}

/// Applies `change` to the byte at an offset of a file.
fn alter(file: &PathBuf, offset: u64, change: impl Fn(u8) -> u8) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[change(byte[0])], offset).unwrap();
}

/// Finds the offset of an entry.
fn offset_of(file: &PathBuf, number: u8) -> u64 {
    let bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(500).position(|it| it == [fill(number); 500]);
    at.unwrap() as u64
}

fn assert_damaged(read: Result<Vec<(u64, bytes::Bytes)>, StoreError>, in_file: &PathBuf, at: u64) {
    let error = read.unwrap_err();
    let Cause::Damaged { file, offset } = &error.source else {
        panic!("{error:?}");
    };
    assert_eq!((file, *offset), (in_file, at));
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains(&in_file.display().to_string()) && source.contains(&at.to_string()),
        "{source}"
    );
}

#[test]
fn a_read_of_an_entry_with_a_flipped_bit_fails() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(&dir);
    let file = segment_file(&dir);
    let entry_offset = offset_of(&file, 3);
    // First byte, last byte, index, group, length and sum of the entry.
    for at in [0, 499, -1, -9, -20, -31] {
        let offset = entry_offset.checked_add_signed(at).unwrap();
        for bit in [0, 7] {
            alter(&file, offset, |byte| byte ^ 1 << bit);
            let record = entry_offset - ENTRY_HEADER_BYTES as u64;
            assert_damaged(log.entries(GROUP, 1, 7, usize::MAX), &file, record);
            assert_damaged(log.entries(GROUP, 3, 4, 1), &file, record);
            // The others are unchanged.
            assert_eq!(log.entries(GROUP, 4, 7, usize::MAX).unwrap().len(), 3);
            alter(&file, offset, |byte| byte ^ 1 << bit);
        }
    }
    let entries = log.entries(GROUP, 1, 7, usize::MAX).unwrap();
    assert_eq!(entries.len(), 6);
    assert_eq!(entries[2], (3, bytes::Bytes::from(vec![fill(3); 500])));
}

#[test]
fn an_intact_record_of_another_entry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(&dir);
    let file = segment_file(&dir);
    let head = ENTRY_HEADER_BYTES as u64;
    let (second, fourth) = (offset_of(&file, 2) - head, offset_of(&file, 4) - head);
    // A block that the disk wrote to the wrong offset.
    let mut record = vec![0; ENTRY_HEADER_BYTES + 500];
    let open_file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    open_file.read_exact_at(&mut record, second).unwrap();
    open_file.write_all_at(&record, fourth).unwrap();
    assert_damaged(log.entries(GROUP, 4, 5, usize::MAX), &file, fourth);
}
