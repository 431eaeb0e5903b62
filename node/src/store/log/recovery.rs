//! Recovery: reads the log from its segments at a start.
//!
//! The newest segment names the oldest one that is still part of the log; from there on each must
//! continue where the one before has ended. The log ends at the first record that is invalid, or
//! doesn't follow its predecessor: there a crash interrupted a write that was never synced. If the
//! synced position is beyond it (see `synced_mark`), the log is damaged, and the node must not
//! start.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::data_loss::classify;
use super::frame::{self, Checksum, Frame, FrameKind};
use super::index::{Index, LogPosition};
use super::segment::SegmentFile;
use super::tail::{FORMAT_VERSION, LogEnd, SegmentHeader};
use crate::store::durable_dir::sync_dir;
use crate::store::error::StoreError;
use crate::store::synced_mark::SyncedMark;

/// Recovered log.
pub(super) struct Recovered {
    /// Contents of the log.
    pub index: Index,
    /// Segments of the log, by number.
    pub segments: Segments,
    /// Files that are not part of the log, and can be reused.
    pub spares: Vec<SegmentFile>,
    /// End of the log; `None` if it has no segment.
    pub end: Option<LogEnd>,
}

type Segments = BTreeMap<u64, SegmentFile>;

impl Recovered {
    /// Makes all records that were read durable; those before `synced` are already: blocks. A
    /// process that was killed between a write and its sync left records that are readable and not
    /// durable, and possibly a new file whose name isn't durable. After this their loss would be
    /// noticed.
    ///
    /// A sync alone is not enough: if that process's own sync has failed, the kernel has dropped
    /// the dirty pages, and still reads them from memory. So the records are written again.
    pub(super) fn make_durable(
        &self,
        dir: &Path,
        synced: LogPosition,
        mark: &SyncedMark,
    ) -> io::Result<()> {
        for (number, file) in self.segments.range(synced.segment()..) {
            let from = if *number == synced.segment() {
                synced.offset()
            } else {
                0
            };
            let end = self.end.filter(|end| end.at.segment() == *number);
            file.rewrite(from..end.map_or(file.size(), |end| end.at.offset()))?;
            file.sync()?;
        }
        sync_dir(dir)?;
        self.end.map_or(Ok(()), |end| mark.set(end.at.number()))
    }
}

fn corrupt_log(reason: &'static str) -> StoreError {
    StoreError::corrupt("log", reason)
}

/// Builds the error of a log that lacks synced records.
fn data_loss_error(
    end: Option<LogEnd>,
    segments: &Segments,
    synced: LogPosition,
) -> Result<StoreError, StoreError> {
    let file = end.and_then(|end| segments.get(&end.at.segment()));
    let rest = match (file, end) {
        (Some(file), Some(end)) => {
            let length = file.size().saturating_sub(end.at.offset());
            let length = usize::try_from(length.min(frame::HEADER_BYTES as u64)).unwrap_or(0);
            let read = file.read(end.at.offset(), length);
            read.map_err(StoreError::on("read", "log"))?
        }
        _ => Vec::new(),
    };
    let path = file.map(|file| file.path().to_owned());
    Ok(StoreError::log_data_loss(classify(
        end, path, &rest, synced,
    )))
}

/// Reads the log from `files`, of which everything before `synced` was durable.
pub(super) fn recover(
    files: Vec<SegmentFile>,
    synced: LogPosition,
) -> Result<Recovered, StoreError> {
    let (mut segments, mut spares) = sort_files(files)?;
    let mut index = Index::default();
    let mut end: Option<LogEnd> = None;
    if let Some(newest) = segments.last_key_value().map(|(number, _)| *number) {
        let oldest = read_oldest_segment(newest, &segments[&newest])?;
        let older = segments.keys().copied().take_while(|it| *it < oldest);
        for number in older.collect::<Vec<_>>() {
            spares.extend(segments.remove(&number));
        }
        if segments.len() as u64 - 1 != newest - oldest {
            return Err(data_loss_error(None, &segments, synced)?);
        }
        for (number, file) in &segments {
            if end.is_some_and(|end| !end.is_full) {
                return Err(data_loss_error(
                    end,
                    &segments,
                    LogPosition::new(*number, 0),
                )?);
            }
            let read = read_segment(*number, file, end.map(|end| end.checksum), &mut index)?;
            end = Some(read);
        }
        index.reapply_purges();
    }
    if end.map_or(LogPosition::default(), |end| end.at) < synced {
        return Err(data_loss_error(end, &segments, synced)?);
    }
    Ok(Recovered {
        index,
        segments,
        spares,
        end,
    })
}

/// Sorts files into segments and spare files; fails on a segment that this version can't read.
fn sort_files(files: Vec<SegmentFile>) -> Result<(Segments, Vec<SegmentFile>), StoreError> {
    let (mut segments, mut spares) = (Segments::new(), Vec::new());
    for file in files {
        let length = usize::try_from(file.size().min(4096)).unwrap_or(0);
        let head = file
            .read(0, length)
            .map_err(StoreError::on("read", "log"))?;
        let frame = frame::read(&head).filter(|frame| frame.kind == Some(FrameKind::SegmentBegin));
        let Some(beginning) = frame.and_then(|frame| SegmentHeader::parse(frame.body)) else {
            spares.push(file);
            continue;
        };
        if beginning.format != FORMAT_VERSION {
            let reason = "it was written by a later version of cloudkv-node: upgrade it";
            return Err(corrupt_log(reason));
        }
        spares.extend(segments.insert(beginning.number, file));
    }
    Ok((segments, spares))
}

/// Reads the number of the oldest segment of the log from the newest one.
fn read_oldest_segment(number: u64, newest: &SegmentFile) -> Result<u64, StoreError> {
    let mut oldest = number;
    let bytes = newest.read_all().map_err(StoreError::on("read", "log"))?;
    visit_records(&bytes, None, |frame, _| {
        match frame.kind {
            Some(FrameKind::SegmentBegin) => {
                oldest = SegmentHeader::parse(frame.body).map_or(oldest, |begin| begin.oldest);
            }
            Some(FrameKind::Release) => {
                oldest = frame.split_number().map_or(oldest, |(number, _)| number);
            }
            Some(_) | None => {}
        }
        Ok(())
    })?;
    Ok(oldest.min(number))
}

fn read_segment(
    number: u64,
    file: &SegmentFile,
    link: Option<Checksum>,
    index: &mut Index,
) -> Result<LogEnd, StoreError> {
    let bytes = file.read_all().map_err(StoreError::on("read", "log"))?;
    let (offset, link, is_full) = visit_records(&bytes, link, |frame, offset| {
        let at = LogPosition::new(number, offset);
        index
            .apply(frame, at)
            .map_err(|invalid| corrupt_log(invalid.0))
    })?;
    Ok(LogEnd {
        at: LogPosition::new(number, offset),
        checksum: link.unwrap_or_default(),
        is_full,
    })
}

/// Visits the records of a segment, of which the first must follow `link` if that is given. Returns
/// their end, the checksum of the last one, and whether that ends the segment.
fn visit_records(
    bytes: &[u8],
    mut link: Option<Checksum>,
    mut visit: impl FnMut(&Frame<'_>, u64) -> Result<(), StoreError>,
) -> Result<(u64, Option<Checksum>, bool), StoreError> {
    let mut offset = 0;
    loop {
        let rest = &bytes[offset..];
        let frame = match link {
            Some(link) => frame::read_after(rest, link),
            None => frame::read(rest),
        };
        let Some(frame) = frame else {
            return Ok((offset as u64, link, false));
        };
        visit(&frame, offset as u64)?;
        offset += frame.len();
        link = Some(frame.checksum);
        if frame.kind == Some(FrameKind::SegmentEnd) {
            return Ok((offset as u64, link, true));
        }
    }
}
