//! One file: its bytes, and what they were when it was synced.
//!
//! The newest bytes are in a file of the host. Of each sector that was durable and was changed
//! since, the versions are kept in memory, the durable one first; so a sync forgets them, and a cut
//! puts some of them back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::rng::Rng;

/// What a disk writes as a whole.
const SECTOR: u64 = 512;
/// Versions of a sector that are kept, at most: the durable one and later ones.
const MAX_VERSIONS: usize = 4;

type Sector = [u8; SECTOR as usize];

/// What a file system promises of what wasn't synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Nothing.
    Nothing,
    /// Appended bytes are lost from the end on, and names change in order.
    Journaled,
}

/// How much of what wasn't synced a cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All of it.
    Everything,
    /// Nothing: the disk had written it by itself.
    Nothing,
    /// Any of it.
    Some,
}

impl Loss {
    /// How much a part of the disk loses, where the disk as a whole loses so much.
    pub fn of_part(self, rng: &mut Rng) -> Self {
        match self {
            Self::Some if rng.permille(300) => Self::Everything,
            Self::Some if rng.permille(150) => Self::Nothing,
            whole => whole,
        }
    }
}

/// A file's contents.
#[derive(Debug)]
pub(super) struct Contents {
    newest: File,
    size: u64,
    durable_size: u64,
    /// Of sectors below `durable_size` that were changed since the last sync.
    older: BTreeMap<u64, Vec<Sector>>,
}

impl Contents {
    /// An empty file, in `newest` of the host.
    pub fn new(newest: File) -> Self {
        Self {
            newest,
            size: 0,
            durable_size: 0,
            older: BTreeMap::new(),
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a cut can take something from it.
    pub fn is_unsynced(&self) -> bool {
        self.size != self.durable_size || !self.older.is_empty()
    }

    /// Up to `length` bytes from `offset` on; fewer where the file ends.
    pub fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let length = length.min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.newest.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        self.remember(offset, end)?;
        self.newest.write_all_at(bytes, offset)?;
        self.size = self.size.max(end);
        Ok(())
    }

    /// Cuts it off at `size`, or fills it up with zeros.
    pub fn resize(&mut self, size: u64) -> io::Result<()> {
        if size < self.size {
            self.remember(size, self.size)?;
        }
        self.newest.set_len(size)?;
        self.size = size;
        Ok(())
    }

    /// All that was written is durable from here on.
    pub fn sync(&mut self) {
        self.durable_size = self.size;
        self.older.clear();
    }

    /// Keeps the sectors of a range that is about to change, as far as they are durable.
    fn remember(&mut self, from: u64, to: u64) -> io::Result<()> {
        let to = to.min(self.durable_size);
        if from >= to {
            return Ok(());
        }
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let version = self.sector(sector)?;
            let versions = self.older.entry(sector).or_default();
            if versions.len() == MAX_VERSIONS {
                versions.remove(1);
            }
            versions.push(version);
        }
        Ok(())
    }

    /// A sector as it is; zeros where the file ends.
    fn sector(&self, number: u64) -> io::Result<Sector> {
        let mut bytes = [0; SECTOR as usize];
        let there = self.read(number * SECTOR, SECTOR)?;
        bytes[..there.len()].copy_from_slice(&there);
        Ok(bytes)
    }

    /// The power is gone: of what wasn't synced, `rng` decides what stays.
    pub fn cut(&mut self, loss: Loss, guarantee: Guarantee, rng: &mut Rng) -> io::Result<()> {
        let loss = loss.of_part(rng);
        let (size, durable) = (self.size, self.durable_size);
        let left = match loss {
            Loss::Nothing => size,
            Loss::Everything => durable,
            Loss::Some => rng.within(size.min(durable)..size.max(durable) + 1),
        };
        if loss != Loss::Nothing {
            // Zeros, where it was shorter than it is now again.
            self.newest.set_len(left.max(size))?;
            self.put_back(loss, rng)?;
            if guarantee == Guarantee::Nothing {
                self.punch(durable, left, rng)?;
            }
        }
        self.newest.set_len(left)?;
        self.size = left;
        self.sync();
        Ok(())
    }

    /// Puts versions back of sectors that were durable.
    fn put_back(&mut self, loss: Loss, rng: &mut Rng) -> io::Result<()> {
        for (number, versions) in std::mem::take(&mut self.older) {
            // What was cut off comes back as it was.
            let was_cut_off = number * SECTOR >= self.size;
            let kept = if loss == Loss::Everything || was_cut_off {
                0
            } else {
                rng.index(versions.len() + 1)
            };
            if let Some(version) = versions.get(kept) {
                self.newest.write_all_at(version, number * SECTOR)?;
            }
        }
        Ok(())
    }

    /// Makes zeros of some sectors that were appended and have not reached the disk.
    fn punch(&self, durable: u64, left: u64, rng: &mut Rng) -> io::Result<()> {
        let mut at = durable;
        while at < left {
            let end = (at / SECTOR + 1) * SECTOR;
            if rng.permille(500) {
                let length = usize::try_from(end.min(left) - at).map_err(io::Error::other)?;
                self.newest.write_all_at(&vec![0; length], at)?;
            }
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        Contents::new(tempfile::tempfile().unwrap())
    }

    fn all(contents: &Contents) -> Vec<u8> {
        contents.read(0, u64::MAX).unwrap()
    }

    fn cut(contents: &mut Contents, loss: Loss, guarantee: Guarantee, seed: u64) {
        contents.cut(loss, guarantee, &mut Rng::new(seed)).unwrap();
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_may_go() {
        let mut file = contents();
        file.write(0, &[1; 2000]).unwrap();
        file.sync();
        file.write(500, &[2; 100]).unwrap();
        file.write(500, &[3; 3000]).unwrap();
        file.resize(100).unwrap();
        assert!(file.is_unsynced());
        cut(&mut file, Loss::Everything, Guarantee::Nothing, 1);
        assert_eq!(all(&file), [1; 2000]);
        file.write(10, b"kept").unwrap();
        cut(&mut file, Loss::Nothing, Guarantee::Nothing, 1);
        assert_eq!(&all(&file)[10..14], b"kept");
        assert!(!file.is_unsynced());
    }

    #[test]
    fn each_sector_is_one_of_its_versions() {
        let (mut torn, mut versions) = (false, std::collections::BTreeSet::new());
        for seed in 0..60 {
            let mut file = contents();
            file.write(0, &[1; 1536]).unwrap();
            file.sync();
            file.write(0, &[2; 1536]).unwrap();
            file.write(0, &[3; 1536]).unwrap();
            cut(&mut file, Loss::Some, Guarantee::Nothing, seed);
            let bytes = all(&file);
            for sector in bytes.chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]));
                versions.insert(sector[0]);
            }
            torn |= bytes[0] != bytes[1535];
        }
        assert!(torn);
        assert_eq!(versions.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn what_was_appended_is_lost_from_the_end_only_where_that_is_promised() {
        let holes = |guarantee| {
            let mut holes = 0;
            for seed in 0..60 {
                let mut file = contents();
                file.write(0, &[1; 700]).unwrap();
                file.sync();
                file.write(700, &[2; 3000]).unwrap();
                cut(&mut file, Loss::Some, guarantee, seed);
                let bytes = all(&file);
                assert_eq!(bytes[..700], [1; 700]);
                holes += u32::from(bytes[700..].contains(&0));
            }
            holes
        };
        assert_eq!(holes(Guarantee::Journaled), 0);
        assert!(holes(Guarantee::Nothing) > 0);
    }
}
