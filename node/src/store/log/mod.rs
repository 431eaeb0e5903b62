//! Raft logs of all groups of a node: one log on the disk, in segments, which one thread syncs.
//!
//! ```text
//! append ──► tail (in memory) ──► writer: write, sync, complete ──► segments 5 │ 6 │ 7 ...
//!              index: group, entry ► location                       oldest        newest
//! ```
//!
//! *Written* means: readable by this process, and ordered before everything written later.
//! *Durable* means: it survives a power loss, which holds once the completion was called.
//!
//! Invariants:
//! - The log on the disk is the records in the order in which they were written, up to some record:
//!   each names the one before (`frame`), so nothing else can be read after it (`recovery`).
//! - A completion is called with `Ok` only after a sync that began after its records were written.
//! - Records that recovery reads are made durable before the log is open: a process that was killed
//!   may have written them without a sync, or with one that has failed, and Raft treats what it
//!   reads as durable. They are written again, and synced.
//! - A read of an entry from the disk returns the requested entry, unchanged, or an error that
//!   names the file: checksum, group and index are checked before the entry is returned.
//! - A segment is reused only when no entry in it is needed, and the records that establish that
//!   are durable. Votes and positions are repeated at the beginning of each segment, and the few
//!   entries still needed of an old one are relocated (`cleaner`), so that an idle group doesn't
//!   keep old segments in use.
//!
//! | file | purpose |
//! | --- | --- |
//! | `frame` | encoding of a record |
//! | `index` | the log's contents, in memory |
//! | `tail` | end of the log: records that wait to be written |
//! | `segment` | files of the log |
//! | `writer` | the thread that writes and syncs |
//! | `recovery` | reads the log at a start |
//! | `data_loss` | classifies missing synced records: explained by a power failure or not |
//! | `cleaner` | relocates entries to free old segments |

mod cleaner;
mod data_loss;
mod frame;
mod index;
mod recovery;
mod segment;
mod tail;
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

use self::frame::FrameKind;
use self::index::{EntryLocation, Index, LogPosition};
use self::segment::SegmentFile;
use self::tail::{Chunk, Tail};
use self::writer::LogWriter;
use super::durable_dir::create_dir;
use super::error::StoreError;
use super::keys::GroupId;
use super::synced_mark::SyncedMark;

pub(crate) use self::data_loss::LogDataLoss;
#[cfg(test)]
pub(crate) use self::data_loss::LossExtent;
pub(crate) use self::writer::{Completion, SyncStats};

/// Length of an entry's record before the entry, in bytes: the record's header, and the index.
const ENTRY_HEADER_BYTES: usize = frame::HEADER_BYTES + size_of::<u64>();

/// Settings of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogSettings {
    /// Size of a segment, in bytes.
    pub segment_bytes: u64,
    /// Maximum number of files that are kept for later segments.
    pub max_spares: usize,
}

/// Log of a node.
pub struct SegmentLog {
    shared: Arc<SharedLog>,
    thread: Option<JoinHandle<()>>,
}

/// State shared by the log's thread and its callers.
struct SharedLog {
    dir: PathBuf,
    settings: LogSettings,
    state: Mutex<LogState>,
    work_available: Condvar,
    stats: Arc<SyncStats>,
    appended_bytes: AtomicU64,
}

struct LogState {
    index: Index,
    tail: Tail,
    /// Chunks that the log's thread is writing.
    writing: Arc<[Chunk]>,
    completions: Vec<Completion>,
    segments: BTreeMap<u64, Arc<SegmentFile>>,
    spares: Vec<Arc<SegmentFile>>,
    next_slot: u64,
    /// Number of the oldest segment that is part of the log.
    oldest_segment: u64,
    /// Position before which everything is durable.
    durable: LogPosition,
    /// Position after the last record that made an entry unneeded.
    last_removal: LogPosition,
    /// Position after the record that releases older segments, until it is durable.
    pending_release: Option<LogPosition>,
    /// Error of a failed sync, after which nothing can be written any more.
    failure: Option<Arc<str>>,
    is_closing: bool,
    /// True while the log's thread waits for work.
    is_idle: bool,
}

impl LogState {
    fn push(
        &mut self,
        kind: FrameKind,
        group: GroupId,
        body: impl Fn(&mut Vec<u8>),
    ) -> Result<(LogPosition, usize), StoreError> {
        if let Some(reason) = &self.failure {
            let error = io::Error::other(reason.to_string());
            return Err(StoreError::on("write", "log")(error));
        }
        let placed = self
            .tail
            .push(&self.index, self.oldest_segment, kind, group, body);
        placed.map_err(|_| StoreError::corrupt("log", "an entry is larger than a segment can be"))
    }

    /// Appends an entry to the log, and returns its location.
    fn push_entry(
        &mut self,
        kind: FrameKind,
        group: GroupId,
        number: u64,
        entry: impl Fn(&mut Vec<u8>),
    ) -> Result<EntryLocation, StoreError> {
        let (at, length) = self.push(kind, group, |out| {
            out.extend_from_slice(&number.to_be_bytes());
            entry(out);
        })?;
        Ok(EntryLocation {
            at: LogPosition::new(at.segment(), at.offset() + ENTRY_HEADER_BYTES as u64),
            len: u32::try_from(length.saturating_sub(ENTRY_HEADER_BYTES)).unwrap_or(u32::MAX),
        })
    }

    /// Returns the bytes at a location that isn't on the disk yet.
    fn read_in_memory(&self, place: EntryLocation) -> Option<Bytes> {
        let length = usize::try_from(place.len).ok()?;
        let mut chunks = self.writing.iter().chain(self.tail.pending());
        chunks.find_map(|chunk| chunk.read(place.at, length).map(Bytes::copy_from_slice))
    }

    fn entry_source(
        &self,
        group: GroupId,
        number: u64,
        place: EntryLocation,
    ) -> Result<EntrySource, StoreError> {
        if let Some(bytes) = self.read_in_memory(place) {
            return Ok(EntrySource::Memory(bytes));
        }
        let file = self.segments.get(&place.at.segment()).cloned();
        let file = file.ok_or_else(|| StoreError::corrupt("log", "a segment is missing"))?;
        Ok(EntrySource::File(EntryOnDisk {
            file,
            group,
            number,
            location: place,
        }))
    }
}

/// Source of an entry's bytes.
enum EntrySource {
    Memory(Bytes),
    File(EntryOnDisk),
}

impl EntrySource {
    fn read(self) -> Result<Bytes, StoreError> {
        match self {
            Self::Memory(bytes) => Ok(bytes),
            Self::File(entry) => entry.read(),
        }
    }
}

/// Entry that is only on the disk.
struct EntryOnDisk {
    file: Arc<SegmentFile>,
    group: GroupId,
    number: u64,
    location: EntryLocation,
}

impl EntryOnDisk {
    /// Reads and verifies the whole record: the disk may have changed it since it was written, and
    /// nothing but the requested entry may be applied or sent.
    fn read(self) -> Result<Bytes, StoreError> {
        let offset = self
            .location
            .at
            .offset()
            .saturating_sub(ENTRY_HEADER_BYTES as u64);
        let entry = usize::try_from(self.location.len).unwrap_or(usize::MAX);
        let record = self
            .file
            .read(offset, ENTRY_HEADER_BYTES.saturating_add(entry))
            .map_err(StoreError::on("read", "log entry"))?;
        let record = Bytes::from(record);
        let is_requested = frame::read(&record).is_some_and(|frame| {
            let number = frame.split_number().map(|(number, _)| number);
            matches!(frame.kind, Some(FrameKind::Entry | FrameKind::Relocated))
                && frame.group == self.group
                && number == Some(self.number)
                && frame.len() == record.len()
        });
        if !is_requested {
            let file = self.file.path().to_owned();
            return Err(StoreError::damaged("log entry", file, offset));
        }
        Ok(record.slice(ENTRY_HEADER_BYTES..))
    }
}

impl SharedLog {
    /// Wakes the log's thread if it is idle.
    fn wake(&self, mut state: MutexGuard<'_, LogState>) {
        if std::mem::take(&mut state.is_idle) {
            drop(state);
            self.work_available.notify_one();
        }
    }
}

/// Removes files that are too small: created with another setting, or interrupted by a crash.
fn remove_small_files(files: Vec<SegmentFile>, size: u64) -> io::Result<Vec<Arc<SegmentFile>>> {
    let (whole, small): (Vec<_>, Vec<_>) = files.into_iter().partition(|it| it.size() >= size);
    for file in small {
        file.remove()?;
    }
    Ok(whole.into_iter().map(Arc::new).collect())
}

impl SegmentLog {
    /// Opens the log in `dir`, a subdirectory of the data directory, or creates it: blocks.
    pub(super) fn open(
        data_dir: &Path,
        dir: &Path,
        settings: LogSettings,
    ) -> Result<Self, StoreError> {
        let failed = || StoreError::on("open", "log");
        create_dir(dir).map_err(failed())?;
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
        let synced = LogPosition::from_number(synced);
        let recovered = recovery::recover(files, synced)?;
        recovered
            .make_durable(dir, synced, &mark)
            .map_err(failed())?;
        let oldest = recovered.segments.keys().next().copied().unwrap_or(1);
        let default_size = settings.segment_bytes;
        let spares = remove_small_files(recovered.spares, default_size).map_err(failed())?;
        let segments: BTreeMap<u64, Arc<SegmentFile>> = recovered
            .segments
            .into_iter()
            .map(|(number, file)| (number, Arc::new(file)))
            .collect();
        let mut writer = LogWriter::new(mark);
        let (tail, durable) = match recovered.end {
            None => (Tail::empty(default_size), LogPosition::default()),
            Some(end) if end.is_full => (
                Tail::after_segment(end.at, end.checksum, default_size, &recovered.index, oldest),
                end.at,
            ),
            Some(end) => {
                let file = segments.get(&end.at.segment());
                let file =
                    file.ok_or_else(|| StoreError::corrupt("log", "a segment is missing"))?;
                writer
                    .resume(file.clone(), end.at.offset())
                    .map_err(failed())?;
                (
                    Tail::new(end.at, end.checksum, file.size(), default_size),
                    end.at,
                )
            }
        };
        let appended = AtomicU64::new(recovered.index.bytes());
        let state = LogState {
            index: recovered.index,
            last_removal: tail.position(),
            tail,
            writing: Arc::new([]),
            completions: Vec::new(),
            segments,
            spares,
            next_slot,
            oldest_segment: oldest,
            durable,
            pending_release: None,
            failure: None,
            is_closing: false,
            is_idle: false,
        };
        let shared = Arc::new(SharedLog {
            dir: dir.to_owned(),
            settings,
            state: Mutex::new(state),
            work_available: Condvar::new(),
            stats: Arc::default(),
            appended_bytes: appended,
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
    /// twice; existing entries from the first index on are truncated. `committed` is stored with
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
            let place = state.push_entry(FrameKind::Entry, group, number, entry)?;
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
            state.push(FrameKind::Committed, group, |out| {
                out.extend_from_slice(committed)
            })?;
            state.index.set_committed(group, committed);
        }
        state.completions.push(done);
        self.shared.wake(state);
        self.shared
            .appended_bytes
            .fetch_add(bytes, Ordering::Relaxed);
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
        state.push(FrameKind::Vote, group, |out| out.extend_from_slice(vote))?;
        state.index.set_vote(group, vote);
        state.completions.push(done);
        self.shared.wake(state);
        Ok(())
    }

    /// Writes the group's committed position. Durable when `done` is called.
    pub fn set_committed(
        &self,
        group: GroupId,
        committed: &[u8],
        done: Completion,
    ) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(FrameKind::Committed, group, |out| {
            out.extend_from_slice(committed)
        })?;
        state.index.set_committed(group, committed);
        state.completions.push(done);
        self.shared.wake(state);
        Ok(())
    }

    /// Removes the entries from `number` on. Durable with the next sync.
    pub fn truncate_from(&self, group: GroupId, number: u64) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(FrameKind::Truncate, group, |out| {
            out.extend_from_slice(&number.to_be_bytes());
        })?;
        state.index.truncate(group, number);
        state.last_removal = state.tail.position();
        Ok(())
    }

    /// Removes the entries up to index `upto`, whose position is `position`. Triggers a sync, and
    /// doesn't wait for it.
    pub fn purge(&self, group: GroupId, upto: u64, position: &[u8]) -> Result<(), StoreError> {
        let mut state = self.shared.state.lock();
        state.push(FrameKind::Purge, group, |out| {
            out.extend_from_slice(&upto.to_be_bytes());
            out.extend_from_slice(position);
        })?;
        state.index.purge(group, upto, position);
        state.last_removal = state.tail.position();
        self.shared.wake(state);
        Ok(())
    }

    fn read_group<T>(
        &self,
        group: GroupId,
        read: impl FnOnce(&index::GroupLog) -> Option<T>,
    ) -> Option<T> {
        self.shared.state.lock().index.group(group).and_then(read)
    }

    /// Returns the group's last vote.
    pub fn vote(&self, group: GroupId) -> Option<Bytes> {
        self.read_group(group, |log| log.vote.clone())
    }

    /// Returns the group's last stored committed position.
    pub fn committed(&self, group: GroupId) -> Option<Bytes> {
        self.read_group(group, |log| log.committed.clone())
    }

    /// Returns the position up to which the group's log was purged.
    pub fn purged(&self, group: GroupId) -> Option<Bytes> {
        self.read_group(group, |log| log.purged.as_ref().map(|(_, at)| at.clone()))
    }

    /// Reads entries from `from` to `to` (exclusive), about `max_bytes` at most, but at least one
    /// if there is any: may block.
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
                sources.push((*number, state.entry_source(group, *number, *place)?));
            }
        }
        let read = |(number, source): (u64, EntrySource)| Ok((number, source.read()?));
        sources.into_iter().map(read).collect()
    }

    /// Reads the last entry: may block.
    pub fn last(&self, group: GroupId) -> Result<Option<(u64, Bytes)>, StoreError> {
        let last = {
            let state = self.shared.state.lock();
            let log = state.index.group(group);
            match log.and_then(|log| log.entries.last_key_value()) {
                Some((number, place)) => {
                    Some((*number, state.entry_source(group, *number, *place)?))
                }
                None => None,
            }
        };
        let read = |(number, source): (u64, EntrySource)| Ok((number, source.read()?));
        last.map(read).transpose()
    }

    /// Returns the first index of the newest entries of a group that are within both bounds, at
    /// least one if there is any.
    pub fn first_within(&self, group: GroupId, entries: usize, bytes: u64) -> Option<u64> {
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
        self.read_group(group, within)
    }

    /// Returns whether nothing was ever written to the log.
    pub fn is_empty(&self) -> bool {
        self.shared.state.lock().index.groups().next().is_none()
    }

    /// Returns the bytes of appended entries, including those recovered at the start.
    pub fn appended_bytes(&self) -> u64 {
        self.shared.appended_bytes.load(Ordering::Relaxed)
    }

    /// Returns the size of the log's segments, without spare files, in bytes.
    pub fn used_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        state.segments.values().map(|file| file.size()).sum()
    }

    /// Returns the number of entries of all groups: the location of each is in memory.
    pub fn entry_count(&self) -> u64 {
        let state = self.shared.state.lock();
        let groups = state.index.groups();
        groups.map(|(_, log)| log.entries.len() as u64).sum()
    }

    /// Returns the size of all files of the log, in bytes.
    pub fn disk_bytes(&self) -> u64 {
        let state = self.shared.state.lock();
        let files = state.segments.values().chain(&state.spares);
        files.map(|file| file.size()).sum()
    }

    /// Returns counters of the log's thread.
    pub fn sync_stats(&self) -> &Arc<SyncStats> {
        &self.shared.stats
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.is_closing = true;
            state.is_idle = false;
        }
        self.shared.work_available.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported already.
            let _ = thread.join();
        }
    }
}
