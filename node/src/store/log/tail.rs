//! The end of the log: where the next record goes, and what waits to be written.
//!
//! Records are put behind each other in memory, in one order for all groups; the log's thread
//! takes all that is there and writes it (see `writer`). A segment that is full is ended, and the
//! next one begins with what must outlive the older ones: votes and positions of all groups.

use super::frame::{self, HEAD, Kind, Link};
use super::index::{Index, Position};
use super::segment::BLOCK;
use crate::store::keys::GroupId;

/// The format of the segments.
pub const FORMAT: u32 = 1;

/// A piece of a segment that waits to be written, or is being written.
#[derive(Debug)]
pub struct Chunk {
    /// Where it goes.
    pub at: Position,
    /// Size that a new segment has at least; `None`: the segment is there.
    pub begins: Option<u64>,
    /// What is written.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Where it ends.
    pub fn end(&self) -> Position {
        Position::new(
            self.at.segment(),
            self.at.offset() + self.bytes.len() as u64,
        )
    }

    /// The bytes at a place, if they are all here.
    pub fn read(&self, at: Position, length: usize) -> Option<&[u8]> {
        if at.segment() != self.at.segment() {
            return None;
        }
        let begin = usize::try_from(at.offset().checked_sub(self.at.offset())?).ok()?;
        self.bytes.get(begin..begin.checked_add(length)?)
    }
}

/// A record that fits in no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// The end of the log.
#[derive(Debug)]
pub struct Tail {
    at: Position,
    link: Link,
    /// Size of the segment at `at`.
    size: u64,
    /// Size of segments, when no record needs more.
    usual_size: u64,
    waiting: Vec<Chunk>,
}

impl Tail {
    /// Goes on behind the record that `link` is of, in a segment of `size` bytes.
    pub fn new(at: Position, link: Link, size: u64, usual_size: u64) -> Self {
        Self {
            at,
            link,
            size,
            usual_size,
            waiting: Vec::new(),
        }
    }

    /// The end of a log that has no segment yet: the first one is segment 1.
    pub fn empty(usual_size: u64) -> Self {
        let mut tail = Self::new(Position::new(0, 0), Link::default(), 0, usual_size);
        tail.begin(&Index::default(), 1, 0);
        tail
    }

    /// Goes on behind a segment that has ended.
    pub fn behind(at: Position, link: Link, usual_size: u64, index: &Index, oldest: u64) -> Self {
        let mut tail = Self::new(at, link, at.offset(), usual_size);
        tail.begin(index, oldest, 0);
        tail
    }

    /// Where the next record goes.
    pub fn at(&self) -> Position {
        self.at
    }

    /// What waits to be written.
    pub fn waiting(&self) -> &[Chunk] {
        &self.waiting
    }

    /// Takes what waits to be written.
    pub fn take(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.waiting)
    }

    /// Puts a record at the end; `body` writes its body, and may be called twice. Returns where the
    /// record begins and how long it is. `index` is what the log said before it, and `oldest` its
    /// oldest segment.
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

    /// Whether the segment has room for its last record, too.
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

    /// Takes back the record that was put last.
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

    /// Begins the next segment, with room for a record of `room` bytes.
    fn begin(&mut self, index: &Index, oldest: u64, room: u64) {
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
        let needed = self.at.offset() + room + HEAD as u64;
        let needed = needed.next_multiple_of(BLOCK as u64);
        self.size = self.usual_size.max(needed).min(u64::from(u32::MAX));
        if let Some(chunk) = self.waiting.last_mut() {
            chunk.begins = Some(self.size);
        }
    }
}

/// What the first record of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The segment's format.
    pub format: u32,
    /// Its number.
    pub number: u64,
    /// The oldest segment of the log, when it was begun.
    pub oldest: u64,
}

impl Beginning {
    /// Reads the body of a first record.
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
