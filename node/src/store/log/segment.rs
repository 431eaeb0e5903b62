//! Files of the log: of a fixed size, filled once, then reused for a later segment.
//!
//! A preallocated file is synced faster than one that grows: no metadata has to be written to the
//! file system's journal. It is written with direct I/O where the file system allows that, in whole
//! blocks: the last block of the log is written again with each sync until it is full, and its
//! beginning never changes, so a torn write of it doesn't change earlier records.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::durable_dir::sync_dir;

/// Block size, in bytes: files are written in whole blocks, at offsets that are multiples of it.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Maximum size of one write, in bytes; a multiple of [`BLOCK_BYTES`].
const MAX_WRITE_BYTES: usize = 1 << 20;
const FILE_EXTENSION: &str = "log";

/// File of the log.
#[derive(Debug)]
pub(super) struct SegmentFile {
    path: PathBuf,
    slot: u64,
    size: u64,
    read_file: File,
    write_file: File,
}

impl SegmentFile {
    /// Creates file number `slot` in `dir`, filled with zeros and durable: blocks.
    pub(super) fn create(dir: &Path, slot: u64, size: u64) -> io::Result<Self> {
        let path = dir.join(format!("{slot:08}.{FILE_EXTENSION}"));
        let created = Self::fill(&path, size).and_then(|()| Self::open(path.clone(), slot));
        if created.is_err() {
            // An incomplete file is useless, and its space may be needed.
            let _ = std::fs::remove_file(&path);
        }
        let file = created?;
        sync_dir(dir)?;
        Ok(file)
    }

    fn fill(path: &Path, size: u64) -> io::Result<()> {
        let file = File::create(path)?;
        let zeros = vec![0; MAX_WRITE_BYTES];
        let mut offset = 0;
        while offset < size {
            let length = usize::try_from(size - offset)
                .map_or(MAX_WRITE_BYTES, |left| left.min(MAX_WRITE_BYTES));
            file.write_all_at(&zeros[..length], offset)?;
            offset += length as u64;
        }
        file.sync_all()
    }

    fn open(path: PathBuf, slot: u64) -> io::Result<Self> {
        let read = File::open(&path)?;
        let size = read.metadata()?.len();
        let write = open_direct(&path).or_else(|_| OpenOptions::new().write(true).open(&path))?;
        Ok(Self {
            path,
            slot,
            size,
            read_file: read,
            write_file: write,
        })
    }

    /// Opens all files in `dir`.
    pub(super) fn open_all(dir: &Path) -> io::Result<Vec<Self>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let named = path.extension().is_some_and(|it| it == FILE_EXTENSION);
            let slot = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            if let (true, Some(slot)) = (named, slot) {
                files.push(Self::open(path, slot)?);
            }
        }
        Ok(files)
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of the file.
    pub(super) fn slot(&self) -> u64 {
        self.slot
    }

    /// Returns the size of the file, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the whole file: blocks.
    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.size).map_err(io::Error::other)?;
        self.read(0, size)
    }

    /// Reads a part of the file: blocks.
    pub(super) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Writes a part again with the content that it reads, in whole blocks: blocks. Bytes that are
    /// on the disk already don't change, even if a power loss interrupts it.
    pub(super) fn rewrite(&self, part: Range<u64>) -> io::Result<()> {
        let mut buffer = AlignedBuffer::new(MAX_WRITE_BYTES);
        let mut offset = part.start - part.start % BLOCK_BYTES as u64;
        while offset < part.end {
            let length = usize::try_from(part.end - offset)
                .map_or(MAX_WRITE_BYTES, |left| left.min(MAX_WRITE_BYTES));
            let blocks = &mut buffer.bytes_mut()[..length.next_multiple_of(BLOCK_BYTES)];
            blocks.fill(0);
            let readable = self.size.saturating_sub(offset).min(blocks.len() as u64);
            let readable = usize::try_from(readable).map_err(io::Error::other)?;
            self.read_file
                .read_exact_at(&mut blocks[..readable], offset)?;
            self.write_file.write_all_at(blocks, offset)?;
            offset += blocks.len() as u64;
        }
        Ok(())
    }

    /// Makes all writes durable, also those of an earlier process, except pages that a failed sync
    /// of that process has dropped: blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        synced::note(&self.path);
        self.write_file.sync_data()
    }

    /// Removes the file.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Opens a file for direct I/O. Some file systems accept the flag and then fail all operations,
/// which a read detects.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    let flag = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .custom_flags(flag)
        .open(path)?;
    file.read_at(AlignedBuffer::new(BLOCK_BYTES).bytes_mut(), 0)?;
    Ok(file)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Buffer aligned to [`BLOCK_BYTES`], as direct I/O requires.
#[derive(Debug)]
struct AlignedBuffer {
    bytes: Vec<u8>,
    skip: usize,
    len: usize,
}

impl AlignedBuffer {
    fn new(len: usize) -> Self {
        // Never grown: the bytes are never moved.
        let bytes = vec![0; len + BLOCK_BYTES];
        let skip = bytes.as_ptr().align_offset(BLOCK_BYTES);
        Self { bytes, skip, len }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skip..self.skip + self.len]
    }
}

/// Writer that appends bytes to one file after the other.
#[derive(Debug)]
pub(super) struct SegmentWriter {
    buffer: AlignedBuffer,
    /// Offset of the buffer's first byte in the file: a multiple of [`BLOCK_BYTES`].
    offset: u64,
    /// Number of bytes of the buffer in use: less than a block between two calls.
    filled: usize,
}

impl SegmentWriter {
    /// Creates a writer at the beginning of a file.
    pub(super) fn new() -> Self {
        Self {
            buffer: AlignedBuffer::new(MAX_WRITE_BYTES),
            offset: 0,
            filled: 0,
        }
    }

    /// Moves to `offset` of a file, and reads the block around it.
    pub(super) fn seek(&mut self, file: &SegmentFile, offset: u64) -> io::Result<()> {
        let rest = offset % BLOCK_BYTES as u64;
        self.offset = offset - rest;
        self.filled = usize::try_from(rest).map_err(io::Error::other)?;
        let block = file.read(self.offset, self.filled)?;
        self.buffer.bytes_mut()[..self.filled].copy_from_slice(&block);
        Ok(())
    }

    /// Moves to the beginning of another file.
    pub(super) fn restart(&mut self) {
        self.offset = 0;
        self.filled = 0;
    }

    /// Writes `bytes`: they are written when this returns, durable after a sync of the file.
    pub(super) fn write(&mut self, file: &SegmentFile, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let free = self.buffer.len - self.filled;
            let (head, rest) = bytes.split_at(bytes.len().min(free));
            let end = self.filled + head.len();
            let padded = end.next_multiple_of(BLOCK_BYTES);
            let buffer = self.buffer.bytes_mut();
            buffer[self.filled..end].copy_from_slice(head);
            buffer[end..padded].fill(0);
            file.write_file
                .write_all_at(&buffer[..padded], self.offset)?;
            let whole = end - end % BLOCK_BYTES;
            buffer.copy_within(whole..end, 0);
            self.offset += whole as u64;
            self.filled = end - whole;
            bytes = rest;
        }
        Ok(())
    }
}

/// Record of the files that the current thread has synced, for tests.
#[cfg(test)]
pub(super) mod synced {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    thread_local! {
        static FILES: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(path: &Path) {
        FILES.with_borrow_mut(|files| files.push(path.to_owned()));
    }

    /// Takes the paths of the synced files.
    pub(crate) fn take() -> Vec<PathBuf> {
        FILES.with_borrow_mut(std::mem::take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_written_contiguously() {
        let dir = tempfile::tempdir().unwrap();
        let file = SegmentFile::create(dir.path(), 1, 4 << 20).unwrap();
        let mut writer = SegmentWriter::new();
        let mut all = Vec::new();
        for (number, length) in [1, 10, 4085, 1, 4096, 3, 1_500_000, 8192, 0, 70]
            .iter()
            .enumerate()
        {
            let piece = vec![u8::try_from(number).unwrap() + 1; *length];
            writer.write(&file, &piece).unwrap();
            all.extend_from_slice(&piece);
        }
        file.sync().unwrap();
        assert_eq!(file.read(0, all.len()).unwrap(), all);
        // After a restart, from the middle of a block.
        let mut writer = SegmentWriter::new();
        writer.seek(&file, all.len() as u64).unwrap();
        writer.write(&file, b"more").unwrap();
        all.extend_from_slice(b"more");
        assert_eq!(file.read(0, all.len()).unwrap(), all);
        assert_eq!(file.size(), 4 << 20);
    }

    #[test]
    fn rewriting_changes_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = SegmentFile::create(dir.path(), 1, 3 << 20).unwrap();
        let all: Vec<u8> = (0..2_500_000_u32)
            .map(|at| (at % 251).to_be_bytes()[3])
            .collect();
        SegmentWriter::new().write(&file, &all).unwrap();
        for part in [0..0, 5..9, 4095..4097, 0..2_500_000, 1 << 20..3 << 20] {
            file.rewrite(part).unwrap();
            file.sync().unwrap();
            assert_eq!(file.read(0, all.len()).unwrap(), all);
        }
        let path = file.path().to_owned();
        assert_eq!(std::fs::metadata(path).unwrap().len(), 3 << 20);
    }

    #[test]
    fn segment_files_are_opened_and_others_ignored() {
        let dir = tempfile::tempdir().unwrap();
        SegmentFile::create(dir.path(), 3, 8192).unwrap();
        SegmentFile::create(dir.path(), 12, 4096).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let mut opened: Vec<_> = SegmentFile::open_all(dir.path())
            .unwrap()
            .iter()
            .map(|file| (file.slot(), file.size()))
            .collect();
        opened.sort_unstable();
        assert_eq!(opened, [(3, 8192), (12, 4096)]);
    }
}
