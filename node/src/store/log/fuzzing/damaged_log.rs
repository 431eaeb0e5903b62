//! A log that was written as nodes do, and then damaged: recovery must cut off a torn tail, lose no
//! record before it, and refuse a log that lacks synced records.
//!
//! ```text
//! choices = damage | segment | offset u16 | mask | records that are synced | record*
//! record  = kind | group | index | length / 4 | byte that fills it
//! ```

#![allow(clippy::unwrap_used, reason = "a panic is a finding")]

use std::collections::BTreeMap;
use std::error::Error as _;

use super::choices::Choices;
use super::recovery_check::{check_recovered, recover_files};
use crate::store::error::Cause;
use crate::store::keys::GroupId;
use crate::store::log::frame::{self, Frame, FrameKind};
use crate::store::log::index::{Index, LogPosition};
use crate::store::log::tail::Tail;

const MAX_RECORDS: usize = 48;
const MAX_GROUPS: u8 = 3;
const MAX_INDEX: u8 = 32;
const SEGMENT_BYTES: u64 = 4096;
/// Size of a segment's first record, in bytes.
const FIRST_RECORD_BYTES: usize = 43;
/// Kinds of records that nodes write, entries more often than others.
const KINDS: [FrameKind; 8] = [
    FrameKind::Entry,
    FrameKind::Vote,
    FrameKind::Committed,
    FrameKind::Purge,
    FrameKind::Truncate,
    FrameKind::Relocated,
    FrameKind::Entry,
    FrameKind::Entry,
];

/// Contents of the files, by the numbers of their segments.
type Files = BTreeMap<u64, Vec<u8>>;

/// Damages a log, and recovers it.
pub(super) fn check(choices: &mut Choices<'_>) {
    let damage = Damage::choose(choices);
    let synced_count = usize::from(choices.byte());
    let files = write_log(choices);
    let records = records_of(&files);
    let synced_count = synced_count % (records.len() + 1);
    let synced = end_of(&records[..synced_count]);

    let mut damaged = files.clone();
    let changed = damage.apply(&mut damaged);
    let is_hit = |record: &Record<'_>| {
        changed.is_some_and(|at| at.segment() == record.begin.segment() && at < record.end)
    };
    let kept_count = records.iter().position(is_hit).unwrap_or(records.len());
    let (kept, lost) = records.split_at(kept_count);
    // A segment is begun only after the one before it was synced as a whole.
    let newest = files.keys().next_back().copied();
    let lost_in = lost.first().map(|record| record.begin.segment());
    let is_lossy = lost_in.is_some() && lost_in != newest || end_of(kept) < synced;

    match recover_files(damaged.values(), synced) {
        Ok(recovered) => {
            assert!(!is_lossy, "lost records were not noticed");
            let end = recovered.end.map_or(LogPosition::default(), |end| end.at);
            assert_eq!(end, end_of(kept));
            let mut expected = Index::default();
            for record in kept {
                expected.apply(&record.frame, record.begin).unwrap();
            }
            expected.reapply_purges();
            assert_eq!(format!("{:?}", recovered.index), format!("{expected:?}"));
            check_recovered(&recovered, synced);
        }
        Err(error) => {
            let source = error.source().map(|source| source.to_string());
            assert!(is_lossy, "an intact log was refused: {source:?}");
            assert!(matches!(error.source, Cause::LogDataLoss(_)), "{source:?}");
        }
    }
}

/// Record of the log before the damage.
struct Record<'a> {
    frame: Frame<'a>,
    begin: LogPosition,
    end: LogPosition,
}

fn end_of(records: &[Record<'_>]) -> LogPosition {
    records
        .last()
        .map_or(LogPosition::default(), |record| record.end)
}

/// Reads all records of an intact log.
fn records_of(files: &Files) -> Vec<Record<'_>> {
    let mut records: Vec<Record<'_>> = Vec::new();
    for (number, file) in files {
        let mut offset = 0;
        while let Some(frame) = frame::read(&file[offset..]) {
            if let Some(last) = records.last() {
                assert_eq!(frame.previous, last.frame.checksum);
            }
            let begin = LogPosition::new(*number, offset as u64);
            offset += frame.len();
            let end = LogPosition::new(*number, offset as u64);
            records.push(Record { frame, begin, end });
        }
    }
    records
}

fn write_log(choices: &mut Choices<'_>) -> Files {
    let (mut tail, mut index) = (Tail::empty(SEGMENT_BYTES), Index::default());
    for _ in 0..MAX_RECORDS {
        if choices.is_empty() {
            break;
        }
        write_record(choices, &mut tail, &mut index);
    }
    let mut files = Files::new();
    for chunk in tail.take_pending() {
        let file = files.entry(chunk.at.segment()).or_default();
        let size = usize::try_from(chunk.new_segment_bytes.unwrap()).unwrap();
        file.resize(size, 0);
        file[..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
    }
    files
}

fn write_record(choices: &mut Choices<'_>, tail: &mut Tail, index: &mut Index) {
    let kind = KINDS[usize::from(choices.byte()) % KINDS.len()];
    let group = GroupId(u16::from(choices.byte() % MAX_GROUPS));
    let number = u64::from(choices.byte() % MAX_INDEX);
    let body = {
        let length = usize::from(choices.byte()) * 4;
        vec![choices.byte(); length]
    };
    let has_number = !matches!(kind, FrameKind::Vote | FrameKind::Committed);
    let write_body = |out: &mut Vec<u8>| {
        if has_number {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&body);
    };
    let (at, length) = tail.push(index, 1, kind, group, write_body).unwrap();
    let mut chunks = tail.pending().iter();
    let record = chunks.find_map(|chunk| chunk.read(at, length)).unwrap();
    index.apply(&frame::read(record).unwrap(), at).unwrap();
}

/// Damage of a file.
struct Damage {
    kind: u8,
    segment: u8,
    offset: usize,
    mask: u8,
}

impl Damage {
    fn choose(choices: &mut Choices<'_>) -> Self {
        Self {
            kind: choices.byte(),
            segment: choices.byte(),
            offset: choices.number(),
            mask: choices.byte(),
        }
    }

    /// Damages a file; returns the position of the first byte that is another one, if any is.
    fn apply(&self, files: &mut Files) -> Option<LogPosition> {
        let oldest = files.values().next().cloned().unwrap_or_default();
        let count = files.len().max(1);
        let (number, file) = files.iter_mut().nth(usize::from(self.segment) % count)?;
        let original = file.clone();
        let at = self.offset % file.len();
        match self.kind % 5 {
            // A bit of the disk.
            1 => file[at] ^= self.mask,
            // A write that was cut off.
            2 => file[at..].fill(0),
            // Blocks at the wrong offset.
            3 => file[at..].copy_from_slice(&original[..original.len() - at]),
            // Content of an earlier use of the file.
            4 => {
                let end = file.len().min(oldest.len());
                let at = at.max(FIRST_RECORD_BYTES).min(end);
                file[at..end].copy_from_slice(&oldest[at..end]);
            }
            _ => {}
        }
        let mut bytes = file.iter().zip(&original);
        let changed = bytes.position(|(new, old)| new != old)?;
        Some(LogPosition::new(*number, changed as u64))
    }
}
