//! State shared by the log's thread and its callers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::frame::{ENTRY_HEADER_BYTES, FrameKind};
use super::index::{EntryLocation, Index, LogPosition};
use super::segment::SegmentFile;
use super::tail::{Chunk, Tail};
use crate::store::error::StoreError;
use crate::store::keys::GroupId;

/// Callback, called once on the log's thread, when the records are durable, or can't become so.
pub(super) type Completion = Box<dyn FnOnce(Result<(), io::Error>) + Send>;

/// Settings of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSettings {
    /// Size of a segment, in bytes.
    pub segment_bytes: u64,
    /// Maximum number of files that are kept for later segments.
    pub max_spares: usize,
}

/// Counters of the log's thread since the start.
#[derive(Debug, Default)]
pub struct SyncStats {
    /// Number of syncs.
    pub syncs: AtomicU64,
    /// Number of appends that were made durable.
    pub appends: AtomicU64,
    /// Time spent in writing and syncing, in microseconds.
    pub micros: AtomicU64,
}

/// State shared by the log's thread and its callers.
pub(super) struct SharedLog {
    /// Directory of the log's files.
    pub dir: PathBuf,
    /// Settings of the log.
    pub settings: LogSettings,
    /// State that changes.
    pub state: Mutex<LogState>,
    /// Signals the log's thread, if it is idle, that there is work.
    pub work_available: Condvar,
    /// Counters of the log's thread.
    pub stats: Arc<SyncStats>,
    /// Bytes of appended entries, including those recovered at the start.
    pub appended_bytes: AtomicU64,
}

/// State of the log that changes.
pub(super) struct LogState {
    /// Contents of the log.
    pub index: Index,
    /// End of the log.
    pub tail: Tail,
    /// Chunks that the log's thread is writing.
    pub writing: Arc<[Chunk]>,
    /// Completions to call after the next sync.
    pub completions: Vec<Completion>,
    /// Files of the log, by their segments' numbers.
    pub segments: BTreeMap<u64, Arc<SegmentFile>>,
    /// Files that can be reused.
    pub spares: Vec<Arc<SegmentFile>>,
    /// Number of the next file to create.
    pub next_slot: u64,
    /// Number of the oldest segment that is part of the log.
    pub oldest_segment: u64,
    /// Position before which everything is durable.
    pub durable: LogPosition,
    /// Position after the last record that made an entry unneeded.
    pub last_removal: LogPosition,
    /// Position after the record that releases older segments, until it is durable.
    pub pending_release: Option<LogPosition>,
    /// Error of a failed sync, after which nothing can be written any more.
    pub failure: Option<Arc<str>>,
    /// True once the log is closed: the thread ends when everything is written.
    pub is_closing: bool,
    /// True while the log's thread waits for work.
    pub is_idle: bool,
}

impl SharedLog {
    /// Creates the state of the log in `dir`.
    pub(super) fn new(dir: &Path, settings: LogSettings, state: LogState) -> Self {
        Self {
            dir: dir.to_owned(),
            settings,
            appended_bytes: AtomicU64::new(state.index.bytes()),
            state: Mutex::new(state),
            work_available: Condvar::new(),
            stats: Arc::default(),
        }
    }

    /// Wakes the log's thread if it is idle.
    pub(super) fn wake(&self, mut state: MutexGuard<'_, LogState>) {
        if std::mem::take(&mut state.is_idle) {
            drop(state);
            self.work_available.notify_one();
        }
    }
}

impl LogState {
    /// Appends a record to the log; `body` writes its body, and may be called twice. Returns the
    /// position and the length of the record.
    pub(super) fn push(
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
    pub(super) fn push_entry(
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
}
