//! A file's contents: its newest bytes, and those that are durable.
//!
//! The newest bytes are in a file of the host. For each durable sector that was changed since the
//! last sync, the versions are kept in memory, the durable one first; so a sync forgets them, and a
//! power loss restores some of them.
//!
//! A failed sync drops pages: they count as clean from then on, and no later sync writes them,
//! unless they are written again. Until the kernel evicts them they are read as they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::rng::Rng;

/// Unit of atomic writes of a disk, in bytes.
const SECTOR_BYTES: u64 = 512;
/// Number of sectors of a page, the unit of the kernel's writes.
const PAGE_SECTORS: u64 = 8;
/// Maximum number of versions of a sector: the durable one and later ones.
const MAX_VERSIONS: usize = 4;

type Sector = [u8; SECTOR_BYTES as usize];

/// Guarantee of a file system for what wasn't synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashConsistency {
    /// No guarantee.
    Posix,
    /// Appended bytes are lost from the end on, and names change in order.
    Journaled,
}

/// Extent to which a power loss takes what wasn't synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossExtent {
    /// All of it is lost.
    Everything,
    /// Nothing is lost: the disk had written it by itself.
    Nothing,
    /// Any part of it may be lost.
    Partial,
}

impl LossExtent {
    /// Draws the extent for a part of the disk, given that of the whole disk.
    pub(super) fn for_part(self, rng: &mut Rng) -> Self {
        match self {
            Self::Partial if rng.chance_permille(300) => Self::Everything,
            Self::Partial if rng.chance_permille(150) => Self::Nothing,
            unchanged => unchanged,
        }
    }
}

/// The contents of a file.
#[derive(Debug)]
pub(super) struct FileContents {
    newest: File,
    size: u64,
    durable_size: u64,
    /// Versions of sectors below `durable_size` that were changed since the last sync.
    older_versions: BTreeMap<u64, Vec<Sector>>,
    /// Sectors that a failed sync has dropped, as the disk has them. None of them is in `older`.
    dropped: BTreeMap<u64, Sector>,
}

impl FileContents {
    /// Creates an empty file, stored in `newest` of the host.
    pub(super) fn new(newest: File) -> Self {
        Self {
            newest,
            size: 0,
            durable_size: 0,
            older_versions: BTreeMap::new(),
            dropped: BTreeMap::new(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns whether a power loss can take something from the file.
    pub(super) fn is_unsynced(&self) -> bool {
        self.size != self.durable_size
            || !self.older_versions.is_empty()
            || !self.dropped.is_empty()
    }

    /// Reads up to `length` bytes from `offset` on; fewer where the file ends.
    pub(super) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let length = length.min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.newest.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.keep_versions(offset, end)?;
        self.newest.write_all_at(bytes, offset)?;
        self.size = self.size.max(end);
        Ok(())
    }

    /// Truncates the file to `size`, or extends it with zeros.
    pub(super) fn resize(&mut self, size: u64) -> io::Result<()> {
        if size < self.size {
            self.keep_versions(size, self.size)?;
        }
        self.newest.set_len(size)?;
        self.size = size;
        Ok(())
    }

    /// Makes all written bytes durable, except for those that a failed sync has dropped.
    pub(super) fn sync(&mut self) {
        self.durable_size = self.size;
        self.older_versions.clear();
    }

    /// Fails a sync: drops at least one of the dirty pages.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) -> io::Result<()> {
        let appended = if self.size > self.durable_size {
            self.durable_size / SECTOR_BYTES..self.size.div_ceil(SECTOR_BYTES)
        } else {
            0..0
        };
        let dirty: BTreeSet<u64> = self
            .older_versions
            .keys()
            .copied()
            .chain(appended)
            .collect();
        let pages: BTreeSet<u64> = dirty.iter().map(|sector| sector / PAGE_SECTORS).collect();
        let drops_all = rng.chance_permille(500);
        let failed = rng.index(pages.len().max(1));
        for (at, page) in pages.into_iter().enumerate() {
            if !drops_all && at != failed && rng.chance_permille(500) {
                continue;
            }
            let first = page * PAGE_SECTORS;
            for sector in dirty.range(first..first + PAGE_SECTORS) {
                self.drop_sector(*sector)?;
            }
        }
        Ok(())
    }

    fn drop_sector(&mut self, sector: u64) -> io::Result<()> {
        if self.dropped.contains_key(&sector) {
            return Ok(());
        }
        let oldest = self
            .older_versions
            .remove(&sector)
            .and_then(|it| it.first().copied());
        let mut on_disk = match oldest {
            Some(oldest) => oldest,
            None => self.sector(sector)?,
        };
        let durable_bytes = self.durable_size.saturating_sub(sector * SECTOR_BYTES);
        let durable_bytes =
            usize::try_from(durable_bytes.min(SECTOR_BYTES)).map_err(io::Error::other)?;
        on_disk[durable_bytes..].fill(0);
        self.dropped.insert(sector, on_disk);
        Ok(())
    }

    /// Evicts the kernel's pages: what a failed sync has dropped is read from the disk again.
    pub(super) fn evict(&mut self) -> io::Result<()> {
        for (number, on_disk) in std::mem::take(&mut self.dropped) {
            if number * SECTOR_BYTES < self.size {
                self.newest.write_all_at(&on_disk, number * SECTOR_BYTES)?;
            }
        }
        self.newest.set_len(self.size)
    }

    /// Marks pages that are about to change as dirty, also where they had been dropped.
    fn mark_dirty(&mut self, from: u64, to: u64) {
        let page = PAGE_SECTORS * SECTOR_BYTES;
        let sectors = from / page * PAGE_SECTORS..to.div_ceil(page) * PAGE_SECTORS;
        let dropped: Vec<u64> = self.dropped.range(sectors).map(|it| *it.0).collect();
        for sector in dropped {
            if let Some(on_disk) = self.dropped.remove(&sector)
                && sector * SECTOR_BYTES < self.durable_size
            {
                self.older_versions.insert(sector, vec![on_disk]);
            }
        }
    }

    /// Keeps the sectors of a range that is about to change, as far as they are durable.
    fn keep_versions(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.mark_dirty(from, to);
        let to = to.min(self.durable_size);
        if from >= to {
            return Ok(());
        }
        for sector in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let version = self.sector(sector)?;
            let versions = self.older_versions.entry(sector).or_default();
            if versions.len() == MAX_VERSIONS {
                versions.remove(1);
            }
            versions.push(version);
        }
        Ok(())
    }

    /// Returns the present bytes of a sector; zeros behind the file's end.
    fn sector(&self, number: u64) -> io::Result<Sector> {
        let mut bytes = [0; SECTOR_BYTES as usize];
        let present = self.read(number * SECTOR_BYTES, SECTOR_BYTES)?;
        bytes[..present.len()].copy_from_slice(&present);
        Ok(bytes)
    }

    /// Applies a power loss: `rng` decides what is left of what wasn't synced.
    pub(super) fn apply_power_loss(
        &mut self,
        loss: LossExtent,
        guarantee: CrashConsistency,
        rng: &mut Rng,
    ) -> io::Result<()> {
        let loss = loss.for_part(rng);
        self.evict()?;
        let (size, durable) = (self.size, self.durable_size);
        let size_left = match loss {
            LossExtent::Nothing => size,
            LossExtent::Everything => durable,
            LossExtent::Partial => rng.range(size.min(durable)..size.max(durable) + 1),
        };
        if loss != LossExtent::Nothing {
            // A truncated file that grows back is filled with zeros at first.
            self.newest.set_len(size_left.max(size))?;
            self.restore_versions(loss, rng)?;
            if guarantee == CrashConsistency::Posix {
                self.zero_sectors(durable, size_left, rng)?;
            }
        }
        self.newest.set_len(size_left)?;
        self.size = size_left;
        self.sync();
        Ok(())
    }

    /// Restores versions of sectors that were durable.
    fn restore_versions(&mut self, loss: LossExtent, rng: &mut Rng) -> io::Result<()> {
        for (number, versions) in std::mem::take(&mut self.older_versions) {
            // Truncated bytes come back as they were.
            let was_truncated = number * SECTOR_BYTES >= self.size;
            let kept = if loss == LossExtent::Everything || was_truncated {
                0
            } else {
                rng.index(versions.len() + 1)
            };
            if let Some(version) = versions.get(kept) {
                self.newest.write_all_at(version, number * SECTOR_BYTES)?;
            }
        }
        Ok(())
    }

    /// Zeros some sectors that were appended and have not reached the disk.
    fn zero_sectors(&self, durable: u64, end_offset: u64, rng: &mut Rng) -> io::Result<()> {
        let mut at = durable;
        while at < end_offset {
            let end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
            if rng.chance_permille(500) {
                let length = usize::try_from(end.min(end_offset) - at).map_err(io::Error::other)?;
                self.newest.write_all_at(&vec![0; length], at)?;
            }
            at = end;
        }
        Ok(())
    }
}
