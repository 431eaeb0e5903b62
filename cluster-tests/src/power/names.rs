//! Directories: their visible and their durable names.
//!
//! Changes are pending in the order in which they were made. A sync of a directory makes those
//! durable that touch it; a power loss keeps some of the others, each only with those before it on
//! the same name, so that the result is what the kept ones alone would have made.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::contents::{Guarantee, Loss};
use crate::rng::Rng;

/// Number of a file or directory.
pub(super) type Inode = u64;

/// The root directory.
pub(super) const ROOT: Inode = 1;

/// A directory entry's key: the directory and the name.
pub(super) type Place = (Inode, OsString);

type Entries = BTreeMap<Place, Inode>;

/// A change of names.
#[derive(Clone, Debug)]
enum Change {
    Link(Place, Inode),
    Unlink(Place),
    Rename(Place, Place),
}

impl Change {
    fn places(&self) -> [&Place; 2] {
        match self {
            Self::Link(place, _) | Self::Unlink(place) => [place, place],
            Self::Rename(from, to) => [from, to],
        }
    }

    fn touches(&self, directory: Inode) -> bool {
        self.places().iter().any(|place| place.0 == directory)
    }

    fn apply(&self, entries: &mut Entries) {
        match self {
            Self::Link(place, inode) => {
                entries.insert(place.clone(), *inode);
            }
            Self::Unlink(place) => {
                entries.remove(place);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = entries.remove(from) {
                    entries.insert(to.clone(), inode);
                }
            }
        }
    }
}

/// All names of a disk.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: Entries,
    durable: Entries,
    pending: Vec<Change>,
}

impl Names {
    pub fn find(&self, directory: Inode, name: &OsStr) -> Option<Inode> {
        self.seen.get(&(directory, name.to_owned())).copied()
    }

    /// Lists a directory.
    pub fn list(&self, directory: Inode) -> impl Iterator<Item = (&OsStr, Inode)> {
        let from = (directory, OsString::new());
        let entries = self.seen.range(from..(directory + 1, OsString::new()));
        entries.map(|((_, name), inode)| (name.as_os_str(), *inode))
    }

    pub fn link(&mut self, place: Place, inode: Inode) {
        self.change(Change::Link(place, inode));
    }

    pub fn unlink(&mut self, place: Place) {
        self.change(Change::Unlink(place));
    }

    pub fn rename(&mut self, from: Place, to: Place) {
        self.change(Change::Rename(from, to));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    /// Makes the names in a directory durable.
    pub fn sync(&mut self, directory: Inode) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let synced = change.touches(directory);
            if synced {
                change.apply(durable);
            }
            !synced
        });
    }

    /// Applies a power loss: `rng` decides what is left of what wasn't synced. Returns the number
    /// of lost changes.
    pub fn cut(
        &mut self,
        loss: Loss,
        guarantee: impl Fn(Inode) -> Guarantee,
        rng: &mut Rng,
    ) -> usize {
        let loss = loss.of_part(rng);
        let mut lost: BTreeSet<Place> = BTreeSet::new();
        let mut frozen: BTreeSet<Inode> = BTreeSet::new();
        let mut count = 0;
        for change in std::mem::take(&mut self.pending) {
            let is_dropped = match loss {
                Loss::Everything => true,
                Loss::Nothing => false,
                Loss::Some => rng.permille(400),
            };
            let places = change.places();
            let follows_lost = places.iter().any(|place| lost.contains(*place))
                || places.iter().any(|place| frozen.contains(&place.0));
            if !is_dropped && !follows_lost {
                change.apply(&mut self.durable);
                continue;
            }
            count += 1;
            for place in places {
                lost.insert(place.clone());
                if guarantee(place.0) == Guarantee::Journaled {
                    frozen.insert(place.0);
                }
            }
        }
        self.forget_unreachable();
        self.seen = self.durable.clone();
        count
    }

    /// Removes the contents of directories whose own name is lost.
    fn forget_unreachable(&mut self) {
        loop {
            let existing: BTreeSet<Inode> = self.durable.values().copied().collect();
            let before = self.durable.len();
            let is_existing = |directory: Inode| directory == ROOT || existing.contains(&directory);
            self.durable.retain(|place, _| is_existing(place.0));
            if self.durable.len() == before {
                return;
            }
        }
    }

    /// Returns all inodes that have a name, or could have one again after a power loss.
    pub fn named(&self) -> BTreeSet<Inode> {
        let waiting = self.pending.iter().filter_map(|change| match change {
            Change::Link(_, inode) => Some(*inode),
            Change::Unlink(_) | Change::Rename(..) => None,
        });
        let known = self.seen.values().chain(self.durable.values()).copied();
        known.chain(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> Place {
        (ROOT, name.into())
    }

    fn listed(names: &Names) -> Vec<(String, Inode)> {
        let list = names.list(ROOT);
        list.map(|(name, inode)| (name.to_string_lossy().into_owned(), inode))
            .collect()
    }

    fn lose(names: &mut Names, loss: Loss, guarantee: Guarantee, seed: u64) {
        names.cut(loss, |_| guarantee, &mut Rng::new(seed));
    }

    #[test]
    fn names_are_durable_after_a_sync_of_their_directory() {
        let mut names = Names::default();
        names.link(place("a"), 2);
        names.link(place("folder"), 3);
        names.sync(ROOT);
        names.link(place("b"), 4);
        names.link((3, "inside".into()), 5);
        names.sync(3);
        names.unlink(place("a"));
        lose(&mut names, Loss::Everything, Guarantee::Nothing, 1);
        assert_eq!(listed(&names), [("a".into(), 2), ("folder".into(), 3)]);
        assert_eq!(names.find(3, OsStr::new("inside")), Some(5));
    }

    #[test]
    fn a_lost_directory_loses_its_contents() {
        let mut names = Names::default();
        names.link(place("folder"), 3);
        names.link((3, "inside".into()), 5);
        names.sync(3);
        lose(&mut names, Loss::Everything, Guarantee::Nothing, 1);
        assert_eq!(names.find(3, OsStr::new("inside")), None);
        assert!(!names.named().contains(&5));
    }

    #[test]
    fn a_rename_is_atomic() {
        let mut kept = 0;
        for seed in 0..40 {
            let mut names = Names::default();
            names.link(place("current"), 2);
            names.sync(ROOT);
            names.link(place("new"), 3);
            names.rename(place("new"), place("current"));
            lose(&mut names, Loss::Some, Guarantee::Nothing, seed);
            let found = names.find(ROOT, OsStr::new("current")).unwrap();
            assert!(found == 2 || names.find(ROOT, OsStr::new("new")).is_none());
            kept += usize::from(found == 3);
        }
        assert!(kept > 0 && kept < 40);
    }

    #[test]
    fn a_journal_keeps_the_order_of_names_and_nothing_else_does() {
        let later_without_earlier = |guarantee| {
            let mut found = 0;
            for seed in 0..60 {
                let mut names = Names::default();
                names.link(place("first"), 2);
                names.link(place("second"), 3);
                lose(&mut names, Loss::Some, guarantee, seed);
                found += usize::from(listed(&names) == [("second".into(), 3)]);
            }
            found
        };
        assert_eq!(later_without_earlier(Guarantee::Journaled), 0);
        assert!(later_without_earlier(Guarantee::Nothing) > 0);
    }
}
