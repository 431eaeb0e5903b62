//! Records of any kind, order and content, each with a valid checksum: of later versions, of files
//! that got mixed up, or of an attacker.
//!
//! ```text
//! choices = files - 1 | file* | segment and offset of the last sync
//! file    = records - 1 | record* | bytes after them
//! record  = kind | group | 7: not after the one before | length | body
//! ```

use xxhash_rust::xxh3::xxh3_64;

use super::choices::Choices;
use super::recovery_check::{check_recovered, recover_files};
use crate::store::keys::GroupId;
use crate::store::log::frame::{self, Checksum, FrameKind};
use crate::store::log::index::LogPosition;
use crate::store::log::tail::FORMAT_VERSION;

const MAX_FILES: u8 = 4;
const MAX_FILE_RECORDS: u8 = 16;
/// Offset of the kind in a record.
const KIND_OFFSET: usize = 20;

/// Recovers from such records.
pub(super) fn check(choices: &mut Choices<'_>) {
    let (mut files, mut previous) = (Vec::new(), Checksum::default());
    for _ in 0..=choices.byte() % MAX_FILES {
        let mut file = Vec::new();
        for _ in 0..=choices.byte() % MAX_FILE_RECORDS {
            previous = seal_record(&mut file, previous, choices);
        }
        file.resize(file.len() + usize::from(choices.byte()), 0);
        files.push(file);
    }
    let synced = LogPosition::new(u64::from(choices.byte()), choices.number() as u64);
    if let Ok(recovered) = recover_files(&files, synced) {
        check_recovered(&recovered, synced);
    }
}

/// Appends a record after the one with the checksum `previous`, and returns its checksum.
fn seal_record(out: &mut Vec<u8>, previous: Checksum, choices: &mut Choices<'_>) -> Checksum {
    let kind = choices.byte();
    let group = GroupId(u16::from(choices.byte()));
    let is_after = choices.byte() != 7;
    let previous = if is_after { previous } else { Checksum(7) };
    let begin = out.len();
    frame::write(out, previous, FrameKind::Entry, group, |out| {
        if kind == FrameKind::SegmentBegin as u8 {
            let format = FORMAT_VERSION + u32::from(choices.byte());
            out.extend_from_slice(&format.to_be_bytes());
            out.extend_from_slice(&segment_number(choices).to_be_bytes());
            out.extend_from_slice(&segment_number(choices).to_be_bytes());
        } else {
            let length = usize::from(choices.byte());
            out.extend_from_slice(choices.bytes(length));
        }
    });
    out[begin + KIND_OFFSET] = kind;
    let checksum = xxh3_64(&out[begin + size_of::<u64>()..]);
    out[begin..begin + size_of::<u64>()].copy_from_slice(&checksum.to_be_bytes());
    Checksum(checksum)
}

/// Chooses the number of a segment: a small one in most cases, else one near 32 or 64 bits.
fn segment_number(choices: &mut Choices<'_>) -> u64 {
    match choices.byte() {
        number @ 0..128 => u64::from(number),
        number @ 128..192 => u64::from(u32::MAX) - 160 + u64::from(number),
        number => u64::MAX - u64::from(u8::MAX - number),
    }
}
