//! Reads of entries: from memory while they wait to be written, then from the disk.

use std::sync::Arc;

use bytes::Bytes;

use super::frame::{self, ENTRY_HEADER_BYTES, FrameKind};
use super::index::EntryLocation;
use super::segment::SegmentFile;
use super::shared_log::LogState;
use crate::store::error::StoreError;
use crate::store::keys::GroupId;

/// Source of an entry's bytes.
pub(super) enum EntrySource {
    /// The bytes themselves.
    Memory(Bytes),
    /// The file that holds them.
    File(EntryOnDisk),
}

impl EntrySource {
    /// Reads the entry: may block.
    pub(super) fn read(self) -> Result<Bytes, StoreError> {
        match self {
            Self::Memory(bytes) => Ok(bytes),
            Self::File(entry) => entry.read(),
        }
    }
}

/// Entry that is only on the disk.
pub(super) struct EntryOnDisk {
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

impl LogState {
    /// Returns the source of an entry at a location: to be read without the lock of the state.
    pub(super) fn entry_source(
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

    /// Returns the bytes at a location that isn't on the disk yet.
    fn read_in_memory(&self, place: EntryLocation) -> Option<Bytes> {
        let length = usize::try_from(place.len).ok()?;
        let mut chunks = self.writing.iter().chain(self.tail.pending());
        chunks.find_map(|chunk| chunk.read(place.at, length).map(Bytes::copy_from_slice))
    }
}
