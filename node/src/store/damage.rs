//! Damage of the state that reads have met, by group.
//!
//! Each block of the state's files has a checksum, and RocksDB fails the read of a block that
//! doesn't match it, or that the disk can't read: no reader ever gets data other than what was
//! written. Whichever read met the damage, the group is recorded here, and its replica is repaired
//! (see `raft::repair`).

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
    is_damaged: AtomicBool,
    notify: Notify,
    /// First generation that isn't known to be damaged. Locked while a replica is replaced, so that
    /// damage met meanwhile is attributed to either the old or the new generation.
    sound_from_generation: Mutex<u32>,
}

impl GroupDamage {
    fn new(group: GroupId) -> Self {
        Self {
            group,
            is_damaged: AtomicBool::new(false),
            notify: Notify::new(),
            sound_from_generation: Mutex::new(0),
        }
    }

    /// Returns whether a read has met damage of the group's state.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    /// Waits until a read meets damage. Cancel safe.
    pub async fn wait_until_damaged(&self) {
        while !self.is_damaged() {
            self.notify.notified().await;
        }
    }

    /// Records damage met in a generation of the group's rows. Logged once, until the state is
    /// replaced.
    pub fn record(&self, generation: u32, error: &(dyn std::error::Error + 'static)) {
        let sound_from = self.sound_from_generation.lock();
        if generation < *sound_from || self.is_damaged.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(
            group = %self.group,
            error,
            "state damaged on this node's disk: replace the disk"
        );
        self.notify.notify_one();
    }

    /// Clears the damage, after another generation has replaced the damaged one.
    pub fn replaced_by(&self, generation: u32) {
        let mut sound_from = self.sound_from_generation.lock();
        *sound_from = generation;
        self.is_damaged.store(false, Ordering::Release);
    }
}

/// Damage of the state, by group.
#[derive(Debug, Default)]
pub(super) struct DamageRegistry {
    groups: Mutex<BTreeMap<GroupId, Arc<GroupDamage>>>,
    any_damage: watch::Sender<bool>,
    check_lock: Arc<tokio::sync::Mutex<()>>,
}

impl DamageRegistry {
    /// Returns the damage of one group.
    pub(super) fn of_group(&self, group: GroupId) -> Arc<GroupDamage> {
        let mut groups = self.groups.lock();
        let damage = groups
            .entry(group)
            .or_insert_with(|| Arc::new(GroupDamage::new(group)));
        damage.clone()
    }

    /// Records that a read beginning at a row has failed. Returns whether it is the first one that
    /// has met damage.
    pub(super) fn record_failed_read(&self, row: &[u8], error: &rocksdb::Error) -> bool {
        let is_damage = matches!(
            error.kind(),
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::IOError
        );
        let row_group = keys::group_of(row).zip(keys::generation_of(row));
        if let (true, Some((group, generation))) = (is_damage, row_group) {
            self.of_group(group).record(generation, error);
        }
        is_damage && !self.any_damage.send_replace(true)
    }

    /// Subscribes to whether a read of any group has met damage.
    pub(super) fn watch_any(&self) -> watch::Receiver<bool> {
        self.any_damage.subscribe()
    }

    /// Returns the lock held while all rows of a group are checked: one group at a time.
    pub(super) fn check_lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.check_lock.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::{RowKind, Rows};

    const GROUP: GroupId = GroupId(2);

    #[tokio::test]
    async fn late_reads_of_a_replaced_generation_record_no_damage() {
        let damage = DamageRegistry::default().of_group(GROUP);
        let error = std::io::Error::other("a checksum");
        assert!(!damage.is_damaged());
        damage.record(1, &error);
        damage.record(1, &error);
        assert!(damage.is_damaged());
        damage.wait_until_damaged().await;
        damage.replaced_by(2);
        damage.record(1, &error);
        assert!(!damage.is_damaged());
        damage.record(2, &error);
        assert!(damage.is_damaged());
    }

    #[test]
    fn group_and_generation_of_a_row_are_parsed() {
        let row = Rows::new(GROUP, 7).single(RowKind::Header);
        assert_eq!(keys::group_of(&row), Some(GROUP));
        assert_eq!(keys::generation_of(&row), Some(7));
        assert_eq!(keys::group_of(&[1]), None);
    }
}
