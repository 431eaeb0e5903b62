//! End of the log: position of the next record, and chunks that wait to be written.
//!
//! Records are appended in memory, in one order for all groups; the log's thread takes and writes
//! everything that waits (see `writer`). A full segment is ended, and the next one begins with the
//! records that must outlive older segments: votes and positions of all groups.

use super::frame::{self, HEAD, Kind, Link};
use super::index::{Index, Position};
use super::segment::BLOCK;
use crate::store::keys::GroupId;

/// Version of the segment format.
pub const FORMAT: u32 = 1;

/// Piece of a segment that waits to be written, or is being written.
#[derive(Debug)]
pub struct Chunk {
    /// Position of the first byte.
    pub at: Position,
    /// Minimum size of the new segment that begins here; `None` if the segment exists.
    pub begins: Option<u64>,
    /// Bytes to write.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Returns the position after the last byte.
    pub fn end(&self) -> Position {
        Position::new(
            self.at.segment(),
            self.at.offset() + self.bytes.len() as u64,
        )
    }

    /// Returns the bytes at a position, if the chunk contains all of them.
    pub fn read(&self, at: Position, length: usize) -> Option<&[u8]> {
        if at.segment() != self.at.segment() {
            return None;
        }
        let begin = usize::try_from(at.offset().checked_sub(self.at.offset())?).ok()?;
        self.bytes.get(begin..begin.checked_add(length)?)
    }
}

/// Error of a record that fits in no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// End of the log.
#[derive(Debug)]
pub struct Tail {
    at: Position,
    link: Link,
    /// Size of the current segment.
    size: u64,
    /// Size of segments, unless a record needs more.
    usual_size: u64,
    waiting: Vec<Chunk>,
}

impl Tail {
    /// Continues at `at`, after the record with this checksum, in a segment of `size` bytes.
    pub fn new(at: Position, link: Link, size: u64, usual_size: u64) -> Self {
        Self {
            at,
            link,
            size,
            usual_size,
            waiting: Vec::new(),
        }
    }

    /// Creates the end of a log that has no segment yet: the first one is segment 1.
    pub fn empty(usual_size: u64) -> Self {
        let mut tail = Self::new(Position::new(0, 0), Link::default(), 0, usual_size);
        tail.begin(&Index::default(), 1, 0);
        tail
    }

    /// Continues after a segment that has ended.
    pub fn behind(at: Position, link: Link, usual_size: u64, index: &Index, oldest: u64) -> Self {
        let mut tail = Self::new(at, link, at.offset(), usual_size);
        tail.begin(index, oldest, 0);
        tail
    }

    /// Returns the position of the next record.
    pub fn at(&self) -> Position {
        self.at
    }

    /// Returns the chunks that wait to be written.
    pub fn waiting(&self) -> &[Chunk] {
        &self.waiting
    }

    /// Takes the chunks that wait to be written.
    pub fn take(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.waiting)
    }

    /// Appends a record; `body` writes its body, and may be called twice. Returns the position and
    /// the length of the record. `index` is the contents of the log before it, and `oldest` the
    /// number of the oldest segment.
    pub fn push(
        &mut self,
        index: &Index,
        oldest: u64,
        kind: Kind,
        group: GroupId,
        body: impl Fn(&mut Vec<u8>),
    ) -> Result<(Position, usize), TooLarge> {
        let (at, length) = self.put(kind, group, &body);
        if self.fits() {
            return Ok((at, length));
        }
        self.take_back(length, at);
        self.put(Kind::End, GroupId::META, |_| {});
        self.begin(index, oldest, length as u64);
        let placed = self.put(kind, group, &body);
        if self.fits() {
            Ok(placed)
        } else {
            Err(TooLarge)
        }
    }

    /// Returns whether the segment still has space for its last record.
    fn fits(&self) -> bool {
        self.at.offset() + HEAD as u64 <= self.size
    }

    fn put(
        &mut self,
        kind: Kind,
        group: GroupId,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> (Position, usize) {
        let at = self.at;
        if self.waiting.last().is_none_or(|chunk| chunk.end() != at) {
            self.waiting.push(Chunk {
                at,
                begins: None,
                bytes: Vec::new(),
            });
        }
        let Some(chunk) = self.waiting.last_mut() else {
            return (at, 0);
        };
        let before = chunk.bytes.len();
        self.link = frame::write(&mut chunk.bytes, self.link, kind, group, body);
        let length = chunk.bytes.len() - before;
        self.at = Position::new(at.segment(), at.offset() + length as u64);
        (at, length)
    }

    /// Removes the record that was appended last.
    fn take_back(&mut self, length: usize, at: Position) {
        if let Some(chunk) = self.waiting.last_mut() {
            let record = chunk.bytes.len() - length;
            if let Some(frame) = frame::read(&chunk.bytes[record..]) {
                self.link = frame.previous;
            }
            chunk.bytes.truncate(record);
        }
        self.at = at;
    }

    /// Begins the next segment, with space for a record of `record_bytes`.
    fn begin(&mut self, index: &Index, oldest: u64, record_bytes: u64) {
        let number = self.at.segment() + 1;
        self.at = Position::new(number, 0);
        self.waiting.push(Chunk {
            at: self.at,
            begins: None,
            bytes: Vec::new(),
        });
        self.put(Kind::Begin, GroupId::META, |out| {
            out.extend_from_slice(&FORMAT.to_be_bytes());
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&oldest.to_be_bytes());
        });
        for (id, group) in index.groups() {
            if let Some(vote) = &group.vote {
                self.put(Kind::Vote, id, |out| out.extend_from_slice(vote));
            }
            if let Some(committed) = &group.committed {
                self.put(Kind::Committed, id, |out| out.extend_from_slice(committed));
            }
            if let Some((upto, position)) = &group.purged {
                self.put(Kind::Purge, id, |out| {
                    out.extend_from_slice(&upto.to_be_bytes());
                    out.extend_from_slice(position);
                });
            }
        }
        let needed = self.at.offset() + record_bytes + HEAD as u64;
        let needed = needed.next_multiple_of(BLOCK as u64);
        self.size = self.usual_size.max(needed).min(u64::from(u32::MAX));
        if let Some(chunk) = self.waiting.last_mut() {
            chunk.begins = Some(self.size);
        }
    }
}

/// Contents of the first record of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Format of the segment.
    pub format: u32,
    /// Number of the segment.
    pub number: u64,
    /// Number of the log's oldest segment when this one was begun.
    pub oldest: u64,
}

impl Beginning {
    /// Parses the body of a first record.
    pub fn parse(body: &[u8]) -> Option<Self> {
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
