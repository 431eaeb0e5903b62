//! Fuzz target of the log: what is read from the disk, whatever became of it there.
//!
//! No fuzzer finds records with valid checksums by chance. So an input chooses records, which are
//! written with their checksums, and what then happens to the files.
//!
//! | file | contents |
//! | --- | --- |
//! | `choices` | the choices that an input makes |
//! | `recovery_check` | recovery from files, and checks of its result |
//! | `sealed_records` | records of any kind, order and content, with valid checksums |
//! | `damaged_log` | a log that was written as nodes do, and then damaged |

mod choices;
mod damaged_log;
mod recovery_check;
mod sealed_records;

use self::choices::Choices;
use super::frame::{self, Checksum};

/// Reads bytes as a record, and as choices after their first byte, which selects the kind of files.
pub fn log_records(data: &[u8]) {
    check_record(data);
    let Some((kind, choices)) = data.split_first() else {
        return;
    };
    let mut choices = Choices::new(choices);
    if kind % 2 == 0 {
        sealed_records::check(&mut choices);
    } else {
        damaged_log::check(&mut choices);
    }
}

/// Checks that a valid record is the one that would be written with the same content.
fn check_record(bytes: &[u8]) {
    let Some(record) = frame::read(bytes) else {
        return;
    };
    assert_eq!(frame::read(&bytes[..record.len() - 1]), None);
    assert_eq!(frame::read_after(bytes, record.previous), Some(record));
    let other = Checksum(!record.previous.0);
    assert_eq!(frame::read_after(bytes, other), None);
    let Some(kind) = record.kind else {
        return;
    };
    let length = frame::length_after(bytes, record.previous);
    assert_eq!(length, Some(record.len()));
    let mut written = Vec::new();
    let checksum = frame::write(&mut written, record.previous, kind, record.group, |out| {
        out.extend_from_slice(record.body)
    });
    assert_eq!(checksum, record.checksum);
    assert_eq!(written, &bytes[..record.len()]);
}
