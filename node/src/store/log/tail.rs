//! End of the log: position of the next record, and chunks that wait to be written.
//!
//! Records are appended in memory, in one order for all groups; the log's thread takes and writes
//! everything that waits (see `writer`). A full segment is ended, and the next one begins with the
//! records that must outlive older segments: votes and positions of all groups.

use super::frame::{self, Checksum, FrameKind, HEADER_BYTES};
use super::index::{Index, LogPosition};
use super::segment::BLOCK_BYTES;
use crate::store::keys::GroupId;

/// Version of the segment format.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Piece of a segment that waits to be written, or is being written.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Position of the first byte.
    pub at: LogPosition,
    /// Minimum size of the new segment that begins here; `None` if the segment exists.
    pub new_segment_bytes: Option<u64>,
    /// Bytes to write.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Returns the position after the last byte.
    pub(super) fn end(&self) -> LogPosition {
        LogPosition::new(
            self.at.segment(),
            self.at.offset() + self.bytes.len() as u64,
        )
    }

    /// Returns the bytes at a position, if the chunk contains all of them.
    pub(super) fn read(&self, at: LogPosition, length: usize) -> Option<&[u8]> {
        if at.segment() != self.at.segment() {
            return None;
        }
        let begin = usize::try_from(at.offset().checked_sub(self.at.offset())?).ok()?;
        self.bytes.get(begin..begin.checked_add(length)?)
    }
}

/// End of a segment, as it is read from the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogEnd {
    /// Position after the last record.
    pub at: LogPosition,
    /// Checksum of the last record.
    pub checksum: Checksum,
    /// True if the log continues in the next segment.
    pub is_full: bool,
}

/// Error of a record that fits in no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordTooLarge;

/// End of the log.
#[derive(Debug)]
pub(super) struct Tail {
    position: LogPosition,
    checksum: Checksum,
    /// Size of the current segment.
    segment_bytes: u64,
    /// Size of segments, unless a record needs more.
    default_segment_bytes: u64,
    pending: Vec<Chunk>,
}

impl Tail {
    /// Continues at `position`, after the record with `checksum`, in a segment of `segment_bytes`.
    pub(super) fn new(
        position: LogPosition,
        checksum: Checksum,
        segment_bytes: u64,
        default_segment_bytes: u64,
    ) -> Self {
        Self {
            position,
            checksum,
            segment_bytes,
            default_segment_bytes,
            pending: Vec::new(),
        }
    }

    /// Creates the end of a log that has no segment yet: the first one is segment 1.
    pub(super) fn empty(default_segment_bytes: u64) -> Self {
        let mut tail = Self::new(
            LogPosition::new(0, 0),
            Checksum::default(),
            0,
            default_segment_bytes,
        );
        tail.begin_segment(&Index::default(), 1, 0);
        tail
    }

    /// Continues after a segment that has ended.
    pub(super) fn after_segment(
        at: LogPosition,
        link: Checksum,
        default_segment_bytes: u64,
        index: &Index,
        oldest: u64,
    ) -> Self {
        let mut tail = Self::new(at, link, at.offset(), default_segment_bytes);
        tail.begin_segment(index, oldest, 0);
        tail
    }

    /// Returns the position of the next record.
    pub(super) fn position(&self) -> LogPosition {
        self.position
    }

    /// Returns the chunks that wait to be written.
    pub(super) fn pending(&self) -> &[Chunk] {
        &self.pending
    }

    /// Takes the chunks that wait to be written.
    pub(super) fn take_pending(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.pending)
    }

    /// Appends a record; `body` writes its body, and may be called twice. Returns the position and
    /// the length of the record. `index` is the contents of the log before it, and `oldest` the
    /// number of the oldest segment.
    pub(super) fn push(
        &mut self,
        index: &Index,
        oldest: u64,
        kind: FrameKind,
        group: GroupId,
        body: impl Fn(&mut Vec<u8>),
    ) -> Result<(LogPosition, usize), RecordTooLarge> {
        let (at, length) = self.put(kind, group, &body);
        if self.fits() {
            return Ok((at, length));
        }
        self.undo_put(length, at);
        self.put(FrameKind::SegmentEnd, GroupId::META, |_| {});
        self.begin_segment(index, oldest, length as u64);
        let placed = self.put(kind, group, &body);
        if self.fits() {
            Ok(placed)
        } else {
            Err(RecordTooLarge)
        }
    }

    /// Returns whether the segment still has space for its last record.
    fn fits(&self) -> bool {
        self.position.offset() + HEADER_BYTES as u64 <= self.segment_bytes
    }

    fn put(
        &mut self,
        kind: FrameKind,
        group: GroupId,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> (LogPosition, usize) {
        let at = self.position;
        if self.pending.last().is_none_or(|chunk| chunk.end() != at) {
            self.pending.push(Chunk {
                at,
                new_segment_bytes: None,
                bytes: Vec::new(),
            });
        }
        let Some(chunk) = self.pending.last_mut() else {
            return (at, 0);
        };
        let before = chunk.bytes.len();
        self.checksum = frame::write(&mut chunk.bytes, self.checksum, kind, group, body);
        let length = chunk.bytes.len() - before;
        self.position = LogPosition::new(at.segment(), at.offset() + length as u64);
        (at, length)
    }

    /// Removes the record that was appended last.
    fn undo_put(&mut self, length: usize, at: LogPosition) {
        if let Some(chunk) = self.pending.last_mut() {
            let record = chunk.bytes.len() - length;
            if let Some(frame) = frame::read(&chunk.bytes[record..]) {
                self.checksum = frame.previous;
            }
            chunk.bytes.truncate(record);
        }
        self.position = at;
    }

    /// Begins the next segment, with space for a record of `record_bytes`.
    fn begin_segment(&mut self, index: &Index, oldest: u64, record_bytes: u64) {
        let number = self.position.segment() + 1;
        self.position = LogPosition::new(number, 0);
        self.pending.push(Chunk {
            at: self.position,
            new_segment_bytes: None,
            bytes: Vec::new(),
        });
        self.put(FrameKind::SegmentBegin, GroupId::META, |out| {
            out.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&oldest.to_be_bytes());
        });
        for (id, group) in index.groups() {
            if let Some(vote) = &group.vote {
                self.put(FrameKind::Vote, id, |out| out.extend_from_slice(vote));
            }
            if let Some(committed) = &group.committed {
                self.put(FrameKind::Committed, id, |out| {
                    out.extend_from_slice(committed)
                });
            }
            if let Some((upto, position)) = &group.purged {
                self.put(FrameKind::Purge, id, |out| {
                    out.extend_from_slice(&upto.to_be_bytes());
                    out.extend_from_slice(position);
                });
            }
        }
        let needed = self.position.offset() + record_bytes + HEADER_BYTES as u64;
        let needed = needed.next_multiple_of(BLOCK_BYTES as u64);
        self.segment_bytes = self
            .default_segment_bytes
            .max(needed)
            .min(u64::from(u32::MAX));
        if let Some(chunk) = self.pending.last_mut() {
            chunk.new_segment_bytes = Some(self.segment_bytes);
        }
    }
}

/// Contents of the first record of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Format of the segment.
    pub format: u32,
    /// Number of the segment.
    pub number: u64,
    /// Number of the log's oldest segment when this one was begun.
    pub oldest: u64,
}

impl SegmentHeader {
    /// Parses the body of a first record.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let (format, rest) = body.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (oldest, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            format: u32::from_be_bytes(*format),
            number: u64::from_be_bytes(*number),
            oldest: u64::from_be_bytes(*oldest),
        })
    }
}
