//! Recent changes of a replica that readers see, for those who follow them.
//!
//! Each replica remembers them, whoever leads: apply fills the memory (`visible_change`). A
//! position is the index of an entry in the shard's log, so it means the same on all replicas.
//!
//! Invariants:
//! - a change is told only once readers see it;
//! - neither rows nor results depend on the memory;
//! - its lock is held briefly, however much there is to read or to evict.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::change_memory::{ChangeLimits, ChangeMemory, ChangesRange, ReadStep};
use super::pending_changes::PendingChanges;
use super::remembered_change::RememberedChange;
use crate::types::KeyChange;

/// Recent changes of one replica, for readers on any thread.
#[derive(Debug)]
pub struct RecentChanges {
    memory: Mutex<ChangeMemory>,
    last_index: AtomicU64,
    /// Sends `last_index` while there are subscribers: waking them costs something.
    updates: watch::Sender<u64>,
}

/// Changes of consecutive entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesPage {
    /// Changes in the order of the log.
    pub changes: Vec<KeyChange>,
    /// Entry up to which they are complete. If the replica hasn't applied the entry behind which
    /// the range begins, it is the last applied one.
    pub up_to: u64,
}

/// Refusal of a read: the memory doesn't reach back to the beginning of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// Last entry whose effects readers see.
    pub last_index: u64,
}

impl RecentChanges {
    /// Creates a memory that begins behind the last applied entry.
    pub(super) fn new(limits: ChangeLimits, last_index: u64) -> Self {
        Self {
            memory: Mutex::new(ChangeMemory::new(limits, last_index)),
            last_index: AtomicU64::new(last_index),
            updates: watch::channel(last_index).0,
        }
    }

    /// Reads a page of changes.
    pub fn read(&self, range: &ChangesRange<'_>) -> Result<ChangesPage, TooOld> {
        let mut found = Vec::new();
        let mut up_to = range.after;
        loop {
            let step = self.lock().read(range, up_to, &mut found);
            match step {
                ReadStep::More(index) => up_to = index,
                ReadStep::End(index) => {
                    up_to = index;
                    break;
                }
                ReadStep::TooOld(last_index) if up_to == range.after => {
                    return Err(TooOld { last_index });
                }
                // What follows was evicted meanwhile.
                ReadStep::TooOld(_) => break,
            }
        }
        let changes = found.iter().map(RememberedChange::to_key_change);
        Ok(ChangesPage {
            changes: changes.collect(),
            up_to,
        })
    }

    /// Returns the last entry whose effects readers see.
    pub fn last_index(&self) -> u64 {
        self.last_index.load(Ordering::Acquire)
    }

    /// Subscribes to the last entry whose effects readers see. It is sent once for each batch of
    /// entries.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        let receiver = self.updates.subscribe();
        // Whatever is published behind this lock is sent: by then it shows that there is a
        // subscriber.
        let last_index = self.memory.lock().last_index();
        self.updates.send_if_modified(|sent| {
            let is_outdated = *sent < last_index;
            *sent = last_index.max(*sent);
            is_outdated
        });
        receiver
    }

    /// Keeps the changes behind an entry beyond the normal bound, until this time. Returns whether
    /// they are all here, and kept. If they become too many, the pin ends, and the memory doesn't
    /// reach back to its entry any more.
    pub fn pin(&self, id: u64, after: u64, until: Instant) -> bool {
        self.lock().pin(id, after, until)
    }

    /// Removes a pin.
    pub fn unpin(&self, id: u64) {
        self.lock().unpin(id);
        while self.lock().trim() {}
    }

    /// Returns whether all changes behind an entry are here.
    pub fn reaches_back_to(&self, after: u64) -> bool {
        self.lock().reaches_back_to(after)
    }

    /// Adds the changes of a batch whose rows readers see by now.
    pub(super) fn publish(&self, pending: &mut PendingChanges) {
        let mut memory = self.lock();
        memory.publish(pending);
        memory.trim();
        self.announce(memory);
        pending.shrink();
    }

    /// Begins anew behind an entry, the last one of a state that has replaced the former one.
    pub(super) fn restart(&self, index: u64) {
        let mut memory = self.lock();
        memory.restart(index);
        self.announce(memory);
    }

    /// Announces the last entry, and releases the memory.
    fn announce(&self, memory: MutexGuard<'_, ChangeMemory>) {
        let last_index = memory.last_index();
        self.last_index.store(last_index, Ordering::Release);
        let has_subscribers = self.updates.receiver_count() > 0;
        drop(memory);
        if has_subscribers {
            self.updates.send_replace(last_index);
        }
    }

    /// Locks the memory, without the pins that have ended.
    fn lock(&self) -> MutexGuard<'_, ChangeMemory> {
        let mut memory = self.memory.lock();
        if memory.has_pins() {
            memory.expire_pins(Instant::now());
            memory.trim();
        }
        memory
    }

    /// Returns the memory that the changes take, in bytes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.memory.lock().bytes()
    }
}

#[cfg(test)]
#[path = "recent_changes_tests.rs"]
mod tests;
