//! Pins of a replica's recent changes: what they need is kept beyond the normal bound.

use std::time::Instant;

/// Maximum number of pins of one replica.
pub(super) const MAX_PINS: usize = 256;

/// Pins of one replica.
#[derive(Debug, Default)]
pub(super) struct ChangePins(Vec<Pin>);

#[derive(Debug)]
struct Pin {
    id: u64,
    /// Last entry whose changes aren't needed.
    after: u64,
    /// Time after which it ends.
    until: Instant,
}

impl ChangePins {
    /// Sets a pin, instead of an earlier one of the same ID. Returns `false` if there are too many.
    pub(super) fn set(&mut self, id: u64, after: u64, until: Instant) -> bool {
        self.remove(id);
        let has_space = self.0.len() < MAX_PINS;
        if has_space {
            self.0.push(Pin { id, after, until });
        }
        has_space
    }

    /// Removes a pin, if there is one of this ID.
    pub(super) fn remove(&mut self, id: u64) {
        self.0.retain(|pin| pin.id != id);
    }

    /// Removes the pins that have ended.
    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|pin| now < pin.until);
    }

    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether any pin needs the changes of an entry.
    pub(super) fn need(&self, index: u64) -> bool {
        self.0.iter().any(|pin| pin.after < index)
    }

    /// Removes the pins that need the changes of an entry, which can't be kept.
    pub(super) fn break_at(&mut self, index: u64) {
        self.0.retain(|pin| pin.after >= index);
    }
}
