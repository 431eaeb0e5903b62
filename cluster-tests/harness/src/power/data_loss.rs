//! State of a file system after a power loss, or after the kernel has evicted its pages.

use std::io;

use super::file_contents::{CrashConsistency, FileContents, LossExtent};
use super::volume::{FileNode, Volume};
use crate::rng::Rng;

/// Data that a power loss took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataLoss {
    /// Number of files with unsynced writes.
    pub files: usize,
    /// Number of lost name changes.
    pub names: usize,
}

impl Volume {
    /// Evicts the kernel's pages: what failed syncs have dropped is read as the disk has it.
    pub(super) fn evict(&mut self) -> io::Result<()> {
        let nodes = self.nodes.values_mut();
        let mut contents = nodes.filter_map(|node| node.contents.as_mut());
        contents.try_for_each(FileContents::evict)
    }

    /// Applies a power loss: `seed` decides what is left of what wasn't synced.
    pub(super) fn apply_power_loss(&mut self, seed: u64) -> io::Result<DataLoss> {
        let mut rng = Rng::derived(seed, 0xc07);
        let loss = match rng.range(0..10) {
            0..4 => LossExtent::Everything,
            4 => LossExtent::Nothing,
            _ => LossExtent::Partial,
        };
        self.apply_power_loss_of(loss, rng.next_u64())
    }

    /// Applies a power loss of a given extent.
    pub(super) fn apply_power_loss_of(
        &mut self,
        loss: LossExtent,
        seed: u64,
    ) -> io::Result<DataLoss> {
        let mut rng = Rng::new(seed);
        let mut losses = DataLoss::default();
        for node in self.nodes.values_mut() {
            let guarantee = node.guarantee();
            if let Some(contents) = &mut node.contents
                && contents.is_unsynced()
            {
                losses.files += 1;
                contents.apply_power_loss(loss, guarantee, &mut rng)?;
            }
            node.open_handles = 0;
        }
        let nodes = &self.nodes;
        let guarantee = |directory| {
            let node = nodes.get(&directory);
            node.map_or(CrashConsistency::Posix, FileNode::guarantee)
        };
        losses.names = self.names.apply_power_loss(loss, guarantee, &mut rng);
        self.remove_unused();
        self.is_off = false;
        Ok(losses)
    }
}
