//! Directories: their visible and their durable names.
//!
//! Changes are pending in the order in which they were made. A sync of a directory makes those
//! durable that touch it; a power loss keeps some of the others, each only with those before it on
//! the same name, so that the result is what the kept ones alone would have made.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::file_contents::{CrashConsistency, LossExtent};
use crate::rng::Rng;

/// Number of a file or directory.
pub(super) type Inode = u64;

/// The root directory.
pub(super) const ROOT: Inode = 1;

/// A directory entry's key: the directory and the name.
pub(super) type EntryKey = (Inode, OsString);

type Entries = BTreeMap<EntryKey, Inode>;

/// A change of names.
#[derive(Clone, Debug)]
enum NameChange {
    Link(EntryKey, Inode),
    Unlink(EntryKey),
    Rename(EntryKey, EntryKey),
}

impl NameChange {
    fn keys(&self) -> [&EntryKey; 2] {
        match self {
            Self::Link(place, _) | Self::Unlink(place) => [place, place],
            Self::Rename(from, to) => [from, to],
        }
    }

    fn touches(&self, directory: Inode) -> bool {
        self.keys().iter().any(|place| place.0 == directory)
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
pub(super) struct Namespace {
    visible: Entries,
    durable: Entries,
    pending: Vec<NameChange>,
}

impl Namespace {
    pub(super) fn find(&self, directory: Inode, name: &OsStr) -> Option<Inode> {
        self.visible.get(&(directory, name.to_owned())).copied()
    }

    /// Lists a directory.
    pub(super) fn list(&self, directory: Inode) -> impl Iterator<Item = (&OsStr, Inode)> {
        let from = (directory, OsString::new());
        let entries = self.visible.range(from..(directory + 1, OsString::new()));
        entries.map(|((_, name), inode)| (name.as_os_str(), *inode))
    }

    pub(super) fn link(&mut self, place: EntryKey, inode: Inode) {
        self.change(NameChange::Link(place, inode));
    }

    pub(super) fn unlink(&mut self, place: EntryKey) {
        self.change(NameChange::Unlink(place));
    }

    pub(super) fn rename(&mut self, from: EntryKey, to: EntryKey) {
        self.change(NameChange::Rename(from, to));
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.visible);
        self.pending.push(change);
    }

    /// Makes the names in a directory durable.
    pub(super) fn sync(&mut self, directory: Inode) {
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
    pub(super) fn apply_power_loss(
        &mut self,
        loss: LossExtent,
        guarantee: impl Fn(Inode) -> CrashConsistency,
        rng: &mut Rng,
    ) -> usize {
        let loss = loss.for_part(rng);
        let mut lost: BTreeSet<EntryKey> = BTreeSet::new();
        let mut frozen: BTreeSet<Inode> = BTreeSet::new();
        let mut count = 0;
        for change in std::mem::take(&mut self.pending) {
            let is_dropped = match loss {
                LossExtent::Everything => true,
                LossExtent::Nothing => false,
                LossExtent::Partial => rng.chance_permille(400),
            };
            let places = change.keys();
            let follows_lost = places.iter().any(|place| lost.contains(*place))
                || places.iter().any(|place| frozen.contains(&place.0));
            if !is_dropped && !follows_lost {
                change.apply(&mut self.durable);
                continue;
            }
            count += 1;
            for place in places {
                lost.insert(place.clone());
                if guarantee(place.0) == CrashConsistency::Journaled {
                    frozen.insert(place.0);
                }
            }
        }
        self.remove_unreachable();
        self.visible = self.durable.clone();
        count
    }

    /// Removes the contents of directories whose own name is lost.
    fn remove_unreachable(&mut self) {
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
    pub(super) fn referenced_inodes(&self) -> BTreeSet<Inode> {
        let waiting = self.pending.iter().filter_map(|change| match change {
            NameChange::Link(_, inode) => Some(*inode),
            NameChange::Unlink(_) | NameChange::Rename(..) => None,
        });
        let known = self.visible.values().chain(self.durable.values()).copied();
        known.chain(waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_entry(name: &str) -> EntryKey {
        (ROOT, name.into())
    }

    fn listed(names: &Namespace) -> Vec<(String, Inode)> {
        let list = names.list(ROOT);
        list.map(|(name, inode)| (name.to_string_lossy().into_owned(), inode))
            .collect()
    }

    fn apply_power_loss(
        names: &mut Namespace,
        loss: LossExtent,
        guarantee: CrashConsistency,
        seed: u64,
    ) {
        names.apply_power_loss(loss, |_| guarantee, &mut Rng::new(seed));
    }

    #[test]
    fn names_are_durable_after_a_sync_of_their_directory() {
        let mut names = Namespace::default();
        names.link(root_entry("a"), 2);
        names.link(root_entry("folder"), 3);
        names.sync(ROOT);
        names.link(root_entry("b"), 4);
        names.link((3, "inside".into()), 5);
        names.sync(3);
        names.unlink(root_entry("a"));
        apply_power_loss(
            &mut names,
            LossExtent::Everything,
            CrashConsistency::Posix,
            1,
        );
        assert_eq!(listed(&names), [("a".into(), 2), ("folder".into(), 3)]);
        assert_eq!(names.find(3, OsStr::new("inside")), Some(5));
    }

    #[test]
    fn a_lost_directory_loses_its_contents() {
        let mut names = Namespace::default();
        names.link(root_entry("folder"), 3);
        names.link((3, "inside".into()), 5);
        names.sync(3);
        apply_power_loss(
            &mut names,
            LossExtent::Everything,
            CrashConsistency::Posix,
            1,
        );
        assert_eq!(names.find(3, OsStr::new("inside")), None);
        assert!(!names.referenced_inodes().contains(&5));
    }

    #[test]
    fn a_rename_is_atomic() {
        let mut kept = 0;
        for seed in 0..40 {
            let mut names = Namespace::default();
            names.link(root_entry("current"), 2);
            names.sync(ROOT);
            names.link(root_entry("new"), 3);
            names.rename(root_entry("new"), root_entry("current"));
            apply_power_loss(
                &mut names,
                LossExtent::Partial,
                CrashConsistency::Posix,
                seed,
            );
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
                let mut names = Namespace::default();
                names.link(root_entry("first"), 2);
                names.link(root_entry("second"), 3);
                apply_power_loss(&mut names, LossExtent::Partial, guarantee, seed);
                found += usize::from(listed(&names) == [("second".into(), 3)]);
            }
            found
        };
        assert_eq!(later_without_earlier(CrashConsistency::Journaled), 0);
        assert!(later_without_earlier(CrashConsistency::Posix) > 0);
    }
}
