//! State of a file system after a power loss, or after the kernel has evicted its pages.

use std::io;

use super::contents::{Contents, Guarantee, Loss};
use super::volume::{Node, Volume};
use crate::rng::Rng;

/// Data that a power loss took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Number of files with unsynced writes.
    pub files: usize,
    /// Number of lost name changes.
    pub names: usize,
}

impl Volume {
    /// Evicts the kernel's pages: what failed syncs have dropped is read as the disk has it.
    pub fn evict(&mut self) -> io::Result<()> {
        let nodes = self.nodes.values_mut();
        let mut contents = nodes.filter_map(|node| node.contents.as_mut());
        contents.try_for_each(Contents::evict)
    }

    /// Applies a power loss: `seed` decides what is left of what wasn't synced.
    pub fn cut(&mut self, seed: u64) -> io::Result<Losses> {
        let mut rng = Rng::branch(seed, 0xc07);
        let loss = match rng.within(0..10) {
            0..4 => Loss::Everything,
            4 => Loss::Nothing,
            _ => Loss::Some,
        };
        self.cut_with(loss, rng.draw())
    }

    /// Applies a power loss of a given extent.
    pub fn cut_with(&mut self, loss: Loss, seed: u64) -> io::Result<Losses> {
        let mut rng = Rng::new(seed);
        let mut losses = Losses::default();
        for node in self.nodes.values_mut() {
            let guarantee = node.guarantee();
            if let Some(contents) = &mut node.contents
                && contents.is_unsynced()
            {
                losses.files += 1;
                contents.cut(loss, guarantee, &mut rng)?;
            }
            node.open = 0;
        }
        let nodes = &self.nodes;
        let guarantee = |directory| {
            let node = nodes.get(&directory);
            node.map_or(Guarantee::Nothing, Node::guarantee)
        };
        losses.names = self.names.cut(loss, guarantee, &mut rng);
        self.remove_unused();
        self.is_off = false;
        Ok(losses)
    }
}
