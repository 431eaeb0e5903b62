//! Opens the log: recovers it, makes what it read durable, and continues at its end.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::index::{Index, LogPosition};
use super::recovery::{Recovered, recover};
use super::segment::SegmentFile;
use super::segment_log::SegmentLog;
use super::shared_log::{LogSettings, LogState, SharedLog};
use super::tail::{LogEnd, Tail};
use super::writer::LogWriter;
use crate::store::durable_dir::create_dir;
use crate::store::error::StoreError;
use crate::store::synced_mark::SyncedMark;

/// Segments of the log, by number.
type Segments = BTreeMap<u64, Arc<SegmentFile>>;

impl SegmentLog {
    /// Opens the log in `dir`, a subdirectory of the data directory, or creates it: blocks.
    pub(crate) fn open(
        data_dir: &Path,
        dir: &Path,
        settings: LogSettings,
    ) -> Result<Self, StoreError> {
        create_dir(dir).map_err(open_error())?;
        let (mark, synced) = SyncedMark::open(data_dir)
            .map_err(StoreError::on("open", "mark of the log's last sync"))?;
        let files = SegmentFile::open_all(dir).map_err(open_error())?;
        let next_slot = files
            .iter()
            .map(SegmentFile::slot)
            .max()
            .map_or(1, |last| last + 1);
        let synced = LogPosition::from_number(synced);
        let recovered = recover(files, synced)?;
        recovered
            .make_durable(dir, synced, &mark)
            .map_err(open_error())?;
        let mut writer = LogWriter::new(mark);
        let state = resume(recovered, next_slot, settings.segment_bytes, &mut writer)?;
        Self::start(SharedLog::new(dir, settings, state), writer)
    }

    /// Starts the log's thread.
    fn start(shared: SharedLog, writer: LogWriter) -> Result<Self, StoreError> {
        let shared = Arc::new(shared);
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
}

fn open_error() -> impl Fn(io::Error) -> StoreError {
    StoreError::on::<io::Error>("open", "log")
}

/// Builds the state of a recovered log, and moves the writer to its end. New segments have at least
/// `segment_bytes`.
fn resume(
    recovered: Recovered,
    next_slot: u64,
    segment_bytes: u64,
    writer: &mut LogWriter,
) -> Result<LogState, StoreError> {
    let oldest = recovered.segments.keys().next().copied().unwrap_or(1);
    let spares = remove_small_files(recovered.spares, segment_bytes).map_err(open_error())?;
    let segments: Segments = recovered
        .segments
        .into_iter()
        .map(|(number, file)| (number, Arc::new(file)))
        .collect();
    let index = recovered.index;
    let tail = match recovered.end {
        None => Tail::empty(segment_bytes),
        Some(end) => resume_tail(end, &segments, &index, oldest, segment_bytes, writer)?,
    };
    Ok(LogState {
        index,
        last_removal: tail.position(),
        tail,
        writing: Arc::new([]),
        completions: Vec::new(),
        segments,
        spares,
        next_slot,
        oldest_segment: oldest,
        durable: recovered.end.map_or(LogPosition::default(), |end| end.at),
        pending_release: None,
        failure: None,
        is_closing: false,
        is_idle: false,
    })
}

/// Continues the log after its last record: in the same segment, unless that has ended.
fn resume_tail(
    end: LogEnd,
    segments: &Segments,
    index: &Index,
    oldest: u64,
    segment_bytes: u64,
    writer: &mut LogWriter,
) -> Result<Tail, StoreError> {
    if end.is_full {
        let tail = Tail::after_segment(end.at, end.checksum, segment_bytes, index, oldest);
        return Ok(tail);
    }
    let file = segments.get(&end.at.segment());
    let file = file.ok_or_else(|| StoreError::corrupt("log", "a segment is missing"))?;
    writer
        .resume(file.clone(), end.at.offset())
        .map_err(open_error())?;
    Ok(Tail::new(end.at, end.checksum, file.size(), segment_bytes))
}

/// Removes files that are too small: created with another setting, or interrupted by a crash.
fn remove_small_files(files: Vec<SegmentFile>, size: u64) -> io::Result<Vec<Arc<SegmentFile>>> {
    let (whole, small): (Vec<_>, Vec<_>) = files.into_iter().partition(|it| it.size() >= size);
    for file in small {
        file.remove()?;
    }
    Ok(whole.into_iter().map(Arc::new).collect())
}
