//! Damage of the state that reads have met, by group.
//!
//! Each block of the state's files has a checksum, and RocksDB answers a read of one that doesn't
//! fit it, or that the disk doesn't give, with an error: nobody ever sees what isn't what was
//! written. Whoever met it, the group is noted here, and its replica is looked after (see
//! `raft::repair`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::keys::{self, GroupId};

/// Damage of one group's state on this node.
#[derive(Debug)]
pub struct GroupDamage {
    group: GroupId,
    is_found: AtomicBool,
    found: Notify,
    /// Held while a replica is replaced: what is found then belongs to either the old or the new
    /// one.
    sound_from: Mutex<u32>,
}

impl GroupDamage {
    fn new(group: GroupId) -> Self {
        Self {
            group,
            is_found: AtomicBool::new(false),
            found: Notify::new(),
            sound_from: Mutex::new(0),
        }
    }

    /// Whether the group's state is damaged, as far as anybody has met it.
    pub fn is_found(&self) -> bool {
        self.is_found.load(Ordering::Acquire)
    }

    /// Waits until damage is found.
    pub async fn found(&self) {
        while !self.is_found() {
            self.found.notified().await;
        }
    }

    /// Damage was met in a generation of the group's rows. Told to the operator once, until the
    /// state is replaced.
    pub fn note(&self, generation: u32, error: &(dyn std::error::Error + 'static)) {
        let sound_from = self.sound_from.lock();
        if generation < *sound_from || self.is_found.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(
            group = %self.group,
            error,
            "the disk has damaged this node's state of a group: its node should get another disk"
        );
        self.found.notify_one();
    }

    /// Another generation has taken the place of the one that was damaged.
    pub fn replaced_by(&self, generation: u32) {
        let mut sound_from = self.sound_from.lock();
        *sound_from = generation;
        self.is_found.store(false, Ordering::Release);
    }
}

/// Damage of the state, by group.
#[derive(Debug, Default)]
pub(super) struct Damage {
    groups: Mutex<BTreeMap<GroupId, Arc<GroupDamage>>>,
    any: watch::Sender<bool>,
    checking: Arc<tokio::sync::Mutex<()>>,
}

impl Damage {
    /// That of one group.
    pub fn of(&self, group: GroupId) -> Arc<GroupDamage> {
        let mut groups = self.groups.lock();
        let damage = groups
            .entry(group)
            .or_insert_with(|| Arc::new(GroupDamage::new(group)));
        damage.clone()
    }

    /// A read that began at a row has failed. Returns whether it has met damage, and is the first.
    pub fn note(&self, row: &[u8], error: &rocksdb::Error) -> bool {
        let is_damage = matches!(
            error.kind(),
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::IOError
        );
        let of = keys::group_of(row).zip(keys::generation_of(row));
        if let (true, Some((group, generation))) = (is_damage, of) {
            self.of(group).note(generation, error);
        }
        is_damage && !self.any.send_replace(true)
    }

    /// Whether any group has met damage.
    pub fn any(&self) -> watch::Receiver<bool> {
        self.any.subscribe()
    }

    /// Held by the one group that is checked.
    pub fn checking(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.checking.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::{Kind, Rows};

    const GROUP: GroupId = GroupId(2);

    #[tokio::test]
    async fn what_was_replaced_is_not_damaged_again_by_those_who_still_read_it() {
        let damage = Damage::default().of(GROUP);
        let error = std::io::Error::other("a checksum");
        assert!(!damage.is_found());
        damage.note(1, &error);
        damage.note(1, &error);
        assert!(damage.is_found());
        damage.found().await;
        damage.replaced_by(2);
        damage.note(1, &error);
        assert!(!damage.is_found());
        damage.note(2, &error);
        assert!(damage.is_found());
    }

    #[test]
    fn a_row_tells_whose_it_is() {
        let row = Rows::new(GROUP, 7).single(Kind::Header);
        assert_eq!(keys::group_of(&row), Some(GROUP));
        assert_eq!(keys::generation_of(&row), Some(7));
        assert_eq!(keys::group_of(&[1]), None);
    }
}
