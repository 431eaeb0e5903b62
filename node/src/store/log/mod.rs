//! The Raft logs of all groups of a node: one log on the disk, in segments, which one thread syncs.
//!
//! ```text
//! append ──► tail (in memory) ──► writer: write, sync, complete ──► segments 5 │ 6 │ 7 ...
//!              index: group, entry ► place                          oldest        newest
//! ```
//!
//! *Written* means: readable by this process, and ordered before everything written later.
//! *Durable* means: it survives a power loss, which holds once the completion was called.
//!
//! Invariants:
//! - The log on the disk is the records in the order in which they were written, up to some record:
//!   each names the one before (`frame`), so nothing else can be read behind it (`recovery`).
//! - A completion is called with `Ok` only after a sync that began after its records were written.
//! - What a start reads as a part of the log is durable before the log is open: a process that was
//!   killed may have written it without a sync, or with one that has failed, and Raft takes what is
//!   there as durable. It is written again, and synced.
//! - An entry that is read from the disk is the one that was asked for, unchanged, or an error that
//!   names the file: checksum, group and index are compared before anybody sees it.
//! - A segment is used again only when no entry in it is needed, and the records that say so are
//!   durable. Votes and positions are repeated at the beginning of each segment, and what little is
//!   still needed of an old one is moved (`tidy`), so that a group that rests holds up nothing.
//!
//! | file | what it does |
//! | --- | --- |
//! | `frame` | a record as bytes |
//! | `index` | what the log says, in memory |
//! | `tail` | its end: records that wait to be written |
//! | `segment` | its files |
//! | `writer` | the thread that writes and syncs |
//! | `recovery` | the log read at a start |
//! | `lost` | what that finds missing, and whether a power failure explains it |
//! | `tidy` | old segments made free |

mod frame;
mod index;
mod lost;
mod recovery;
mod segment;
mod tail;
mod tidy;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod model_tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::frame::Kind;
use self::index::{Index, Place, Position};
use self::segment::SegmentFile;
use self::tail::{Chunk, Tail};
use self::writer::Writer;
use super::error::StoreError;
use super::folder::make_folder;
use super::keys::GroupId;
use super::synced_mark::SyncedMark;

pub use self::lost::{Extent, Lost};
pub use self::writer::{Completion, SyncStats};

/// Length of an entry's record before the entry: the record's head, and the index.
const ENTRY_HEAD: usize = frame::HEAD + size_of::<u64>();

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// Size of a segment, in bytes.
    pub segment_bytes: u64,
    /// Files that are kept for later segments.
    pub spares: usize,
}

/// The log of a node.
pub struct SegmentLog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the log's thread and those who write to it share.
struct Shared {
    dir: PathBuf,
    settings: LogSettings,
    state: Mutex<State>,
    work: Condvar,
    stats: Arc<SyncStats>,
    appended: AtomicU64,
}

struct State {
    index: Index,
    tail: Tail,
    /// What the log's thread is writing.
    writing: Arc<[Chunk]>,
    completions: Vec<Completion>,
    segments: BTreeMap<u64, Arc<SegmentFile>>,
    spares: Vec<Arc<SegmentFile>>,
    next_slot: u64,
    /// The oldest segment that is part of the log.
    oldest: u64,
    /// All before this is durable.
    durable: Position,
    /// Behind the last record by which something was not needed any more.
    removed: Position,
    /// Behind the record by which older segments were released, while it isn't known as durable.
    releasing: Option<Position>,
    /// Why nothing can be written any more.
    failed: Option<Arc<str>>,
    closing: bool,
    /// Whether the log's thread waits for work.
    idle: bool,
}

impl State {
    fn push(
        &mut self,
        kind: Kind,
        group: GroupId,
        body: impl Fn(&mut Vec<u8>),
    ) -> Result<(Position, usize), StoreError> {
        if let Some(why) = &self.failed {
            let error = io::Error::other(why.to_string());
            return Err(StoreError::on("write", "log")(error));
        }
        let placed = self.tail.push(&self.index, self.oldest, kind, group, body);
        placed.map_err(|_| StoreError::corrupt("log", "an entry is larger than a segment can be"))
    }

    /// Puts an entry at the end of the log, and returns its place.
    fn push_entry(
        &mut self,
        kind: Kind,
        group: GroupId,
        number: u64,
        entry: impl Fn(&mut Vec<u8>),
    ) -> Result<Place, StoreError> {
        let (at, length) = self.push(kind, group, |out| {
            out.extend_from_slice(&number.to_be_bytes());
            entry(out);
        })?;
        Ok(Place {
            at: Position::new(at.segment(), at.offset() + ENTRY_HEAD as u64),
            len: u32::try_from(length.saturating_sub(ENTRY_HEAD)).unwrap_or(u32::MAX),
        })
    }

    /// The bytes at a place that isn't on the disk yet.
    fn in_memory(&self, place: Place) -> Option<Bytes> {
        let length = usize::try_from(place.len).ok()?;
        let mut chunks = self.writing.iter().chain(self.tail.waiting());
        chunks.find_map(|chunk| chunk.read(place.at, length).map(Bytes::copy_from_slice))
    }

    fn source(&self, group: GroupId, number: u64, place: Place) -> Result<Source, StoreError> {
        if let Some(bytes) = self.in_memory(place) {
            return Ok(Source::Memory(bytes));
        }
        let file = self.segments.get(&place.at.segment()).cloned();
        let file = file.ok_or_else(|| StoreError::corrupt("log", "a segment is missing"))?;
        Ok(Source::File(EntryOnDisk {
            file,
            group,
            number,
            place,
        }))
    }
}

/// Where an entry's bytes are.
enum Source {
    Memory(Bytes),
    File(EntryOnDisk),
}

impl Source {
    fn read(self) -> Result<Bytes, StoreError> {
        match self {
            Self::Memory(bytes) => Ok(bytes),
            Self::File(entry) => entry.read(),
        }
    }
}

/// An entry that is only on the disk.
struct EntryOnDisk {
    file: Arc<SegmentFile>,
    group: GroupId,
    number: u64,
    place: Place,
}

impl EntryOnDisk {
    /// Reads the whole record: the disk may have changed it since it was written, and nobody may
    /// apply or pass on what isn't the entry that was asked for.
    fn read(self) -> Result<Bytes, StoreError> {
        let offset = self.place.at.offset().saturating_sub(ENTRY_HEAD as u64);
        let entry = usize::try_from(self.place.len).unwrap_or(usize::MAX);
        let record = self
            .file
            .read(offset, ENTRY_HEAD.saturating_add(entry))
            .map_err(StoreError::on("read", "log entry"))?;
        let record = Bytes::from(record);
        let is_it = frame::read(&record).is_some_and(|frame| {
            let number = frame.number().map(|(number, _)| number);
            matches!(frame.kind, Some(Kind::Entry | Kind::Moved))
                && frame.group == self.group
                && number == Some(self.number)
                && frame.len() == record.len()
        });
        if !is_it {
            let file = self.file.path().to_owned();
            return Err(StoreError::damaged("log entry", file, offset));
        }
        Ok(record.slice(ENTRY_HEAD..))
    }
}

impl Shared {
    /// Wakes the log's thread if it waits.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.idle) {
            drop(state);
            self.work.notify_one();
        }
    }
}

/// Removes files that are too small: of another setting, or not finished before a crash.
fn keep_whole(files: Vec<SegmentFile>, size: u64) -> io::Result<Vec<Arc<SegmentFile>>> {
    let (whole, small): (Vec<_>, Vec<_>) = files.into_iter().partition(|it| it.size() >= size);
    for file in small {
        file.remove()?;
    }
    Ok(whole.into_iter().map(Arc::new).collect())
}

impl SegmentLog {
    /// Opens the log in `dir`, a folder of the data directory, or makes it: blocks.
    pub(super) fn open(
        data_dir: &Path,
        dir: &Path,
        settings: LogSettings,
    ) -> Result<Self, StoreError> {
        let failed = || StoreError::on("open", "log");
        make_folder(dir).map_err(failed())?;
        if dir.join("CURRENT").exists() {
            return Err(StoreError::corrupt(
                "log",
                "it was written by a preview of cloudkv-node: start with an empty data directory",
            ));
        }
        let (mark, synced) = SyncedMark::open(data_dir)
            .map_err(StoreError::on("open", "mark of the log's last sync"))?;
        let files = SegmentFile::open_all(dir).map_err(failed())?;
        let next_slot = files
            .iter()
            .map(SegmentFile::slot)
            .max()
            .map_or(1, |last| last + 1);
        let synced = Position::from_number(synced);
        let found = recovery::recover(files, synced)?;
        found.make_durable(dir, synced, &mark).map_err(failed())?;
        let oldest = found.segments.keys().next().copied().unwrap_or(1);
        let usual = settings.segment_bytes;
        let spares = keep_whole(found.spares, usual).map_err(failed())?;
        let segments: BTreeMap<u64, Arc<SegmentFile>> = found
            .segments
            .into_iter()
            .map(|(number, file)| (number, Arc::new(file)))
            .collect();
        let mut writer = Writer::new(mark);
        let (tail, durable) = match found.end {
            None => (Tail::empty(usual), Position::default()),
            Some(end) if end.is_full => (
                Tail::behind(end.at, end.link, usual, &found.index, oldest),
                end.at,
            ),
            Some(end) => {
                let file = segments.get(&end.at.segment());
                let file =
                    file.ok_or_else(|| StoreError::corrupt("log", "a segment is missing"))?;
                writer
                    .go_on(file.clone(), end.at.offset())
                    .map_err(failed())?;
                (Tail::new(end.at, end.link, file.size(), usual), end.at)
            }
        };
        let appended = AtomicU64::new(found.index.bytes());
        let state = State {
            index: found.index,
            removed: tail.at(),
            tail,
            writing: Arc::new([]),
            completions: Vec::new(),
            segments,
            spares,
            next_slot,
            oldest,
            durable,
            releasing: None,
            failed: None,
            closing: false,
            idle: false,
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            settings,
            state: Mutex::new(state),
            work: Condvar::new(),
            stats: Arc::default(),
            appended,
        });
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("log-sync".into())
                .spawn(move || writer.run(&shared))
                .map_err(StoreError::on("start", "log thread"))?
        };
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Appends entries of consecutive indexes, each written by its function, which may be called
    /// twice; a log that goes further ends before the first of them. `committed` is noted with
    /// them, if given. They are written when this returns and durable when `done` is called.
    pub fn append<E: Fn(&mut Vec<u8>)>(
        &self,
        group: GroupId,
        entries: impl IntoIterator<Item = (u64, E)>,
        committed: Option<&[u8]>,
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut bytes = 0;
        let mut state = self.shared.state.lock();
        for (number, entry) in entries {
            let place = state.push_entry(Kind::Entry, group, number, entry)?;
            bytes += u64::from(place.len);
            state.index.append(group, number, place);
        }
        if let Some(committed) = committed
            && state
                .index
                .group(group)
                .and_then(|it| it.committed.as_deref())
                != Some(committed)
        {
            state.push(Kind::Committed, group, |out| {
                out.extend_from_slice(committed)
            })?;
            state.index.set_committed(group, committed);
        }
        state.completions.push(done);
        self.shared.wake(state);
        self.shared.appended.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the group's vote. Durable when `done` is called.
    pub fn set_vote(
        &self,
        group: GroupId,
        vote: &[u8],
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(Kind::Vote, group, |out| out.extend_from_slice(vote))?;
        state.index.set_vote(group, vote);
        state.completions.push(done);
        self.shared.wake(state);
        Ok(())
    }

    /// Notes the group's committed position. Durable when `done` is called.
    pub fn set_committed(
        &self,
        group: GroupId,
        committed: &[u8],
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(Kind::Committed, group, |out| {
            out.extend_from_slice(committed)
        })?;
        state.index.set_committed(group, committed);
        state.completions.push(done);
        self.shared.wake(state);
        Ok(())
    }

    /// Removes the entries from `number` on. Durable with whatever is synced next.
    pub fn truncate_from(&self, group: GroupId, number: u64) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(Kind::Truncate, group, |out| {
            out.extend_from_slice(&number.to_be_bytes());
        })?;
        state.index.truncate(group, number);
        state.removed = state.tail.at();
        Ok(())
    }

    /// Removes the entries up to `upto`, which stands at `position`. Durable soon.
    pub fn purge(&self, group: GroupId, upto: u64, position: &[u8]) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(Kind::Purge, group, |out| {
            out.extend_from_slice(&upto.to_be_bytes());
            out.extend_from_slice(position);
        })?;
        state.index.purge(group, upto, position);
        state.removed = state.tail.at();
        self.shared.wake(state);
        Ok(())
    }

    fn of<T>(&self, group: GroupId, read: impl FnOnce(&index::GroupLog) -> Option<T>) -> Option<T> {
        self.shared.state.lock().index.group(group).and_then(read)
    }

    /// The group's last vote.
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.of(group, |log| log.vote.clone())
    }

    /// The last committed position of the group that was noted.
    pub fn committed(&self, group: GroupId) -> Option<Bytes> {
        self.of(group, |log| log.committed.clone())
    }

    /// The position up to which the group's log was purged.
    pub fn purged(&self, group: GroupId) -> Option<Bytes> {
        self.of(group, |log| log.purged.as_ref().map(|(_, at)| at.clone()))
    }

    /// Entries from `from` to `to` (exclusive), at most about `max_bytes` of them, but one at
    /// least if there is any: may block.
    pub fn entries(
        &self,
        group: GroupId,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let mut sources = Vec::new();
        {
            let state = self.shared.state.lock();
            let mut bytes = 0;
            let log = state.index.group(group);
            let entries = log
                .into_iter()
                .flat_map(|log| log.entries.range(from..to.max(from)));
            for (number, place) in entries {
                if bytes >= max_bytes {
                    break;
                }
                bytes += usize::try_from(place.len).unwrap_or(usize::MAX);
                sources.push((*number, state.source(group, *number, *place)?));
            }
        }
        let read = |(number, source): (u64, Source)| Ok((number, source.read()?));
        sources.into_iter().map(read).collect()
    }

    /// The last entry: may block.
    pub fn last(&self, group: GroupId) -> Result<Option<(u64, Bytes)>, StoreError> {
        let last = {
            let state = self.shared.state.lock();
            let log = state.index.group(group);
            match log.and_then(|log| log.entries.last_key_value()) {
                Some((number, place)) => Some((*number, state.source(group, *number, *place)?)),
                None => None,
            }
        };
        let read = |(number, source): (u64, Source)| Ok((number, source.read()?));
        last.map(read).transpose()
    }

    /// The first of the newest entries of a group, as many as are within both bounds, but one at
    /// least if there is any.
    pub fn keep_from(&self, group: GroupId, entries: usize, bytes: u64) -> Option<u64> {
        let within = |log: &index::GroupLog| {
            let mut left = bytes;
            let newest = log.entries.iter().rev().take(entries);
            let kept = newest.take_while(|(_, place)| {
                let fits = left.checked_sub(u64::from(place.len));
                left = fits.unwrap_or(0);
                fits.is_some()
            });
            let first = kept.last().or_else(|| log.entries.last_key_value());
            first.map(|(number, _)| *number)
        };
        self.of(group, within)
    }

    /// Whether nothing was ever written to it.
    pub fn is_empty(&self) -> bool {
        self.shared.state.lock().index.groups().next().is_none()
    }

    /// Bytes of entries appended, those included that a start found there.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.appended.load(Ordering::Relaxed)
    }

    /// Bytes of the files that hold the log, without those that are kept to be used again.
    pub fn used_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        state.segments.values().map(|file| file.size()).sum()
    }

    /// How many entries of all groups there are: memory holds where each lies.
    pub fn entry_count(&self) -> u64 {
        let state = self.shared.state.lock();
        let groups = state.index.groups();
        groups.map(|(_, log)| log.entries.len() as u64).sum()
    }

    /// Bytes of the log's files.
    pub fn disk_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        let files = state.segments.values().chain(&state.spares);
        files.map(|file| file.size()).sum()
    }

    /// What the log's thread has done.
    pub fn sync_stats(&self) -> &Arc<SyncStats> {
        &self.shared.stats
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.closing = true;
            state.idle = false;
        }
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has told itself already.
            let _ = thread.join();
        }
    }
}
