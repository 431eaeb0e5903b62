//! A ring of events that all streams of one bucket and filter tell.
//!
//! Each slot counts the streams that are at it, so that a slot goes once no stream is at it or
//! before it. If the bytes of all slots become too many, the streams that are furthest behind lose
//! their place, and the slots that only they needed go at once.
//!
//! Invariants:
//! - A stream gets all events since it has joined, in their order, or learns that it has lost its
//!   place: its cursor is before the first slot then.
//! - The first slot has a stream at it: the ring is empty once all streams have all events.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::end::WatchEnd;
use super::event::WatchEvent;

/// Number of events up to which the bytes of all of them are summed up.
const MAX_SUMMED_EVENTS: usize = 64;

/// Ring of events.
#[derive(Debug)]
pub(super) struct EventRing {
    state: Mutex<RingState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct RingState {
    slots: VecDeque<Slot>,
    /// Number of the first slot: all slots since the start are counted.
    first: u64,
    /// Number of streams that have all events.
    at_end: usize,
    /// Number of streams, including those that have lost their place.
    streams: usize,
    /// Streams with a cursor below this have lost their place through no fault of their own.
    gap_end: u64,
    end: Option<WatchEnd>,
    /// True if there is something that the streams were not woken for yet.
    needs_wake: bool,
}

#[derive(Debug)]
struct Slot {
    event: Arc<WatchEvent>,
    /// Number of streams whose next event this is.
    waiting: usize,
}

/// Result of taking events from a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There are some.
    Events,
    /// There are none yet.
    Nothing,
    /// The stream has lost its place: it was too far behind.
    TooSlow,
    /// The stream has lost its place: the node itself has missed changes.
    Gap,
    /// The stream has to end.
    End(WatchEnd),
}

impl EventRing {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::channel(()).0,
        }
    }

    /// Subscribes to news: events, a lost place, or the end.
    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Wakes the streams after a change. It isn't done under a lock.
    pub(super) fn wake(&self) {
        self.state.lock().needs_wake = false;
        self.changed.send_replace(());
    }

    /// Lets a stream join. Returns its cursor: it gets all events from now on.
    pub(super) fn join(&self) -> u64 {
        let mut state = self.state.lock();
        state.streams += 1;
        state.at_end += 1;
        state.end_number()
    }

    /// Removes a stream. Returns whether none is left.
    pub(super) fn leave(&self, cursor: u64) -> bool {
        let mut state = self.state.lock();
        state.streams -= 1;
        state.move_from(cursor);
        state.remove_passed();
        state.streams == 0
    }

    /// Appends an event. Returns whether the ring has to be woken, and wasn't to be before.
    pub(super) fn push(&self, event: &Arc<WatchEvent>) -> bool {
        let mut state = self.state.lock();
        // Without a stream that has its place nobody would take it.
        if state.end.is_some() || (state.at_end == 0 && state.slots.is_empty()) {
            return false;
        }
        event.enter_ring();
        let waiting = std::mem::take(&mut state.at_end);
        state.slots.push_back(Slot {
            event: event.clone(),
            waiting,
        });
        state.mark_changed()
    }

    /// Appends the events behind a cursor to `events`: about `max_bytes` of them, and at least one.
    pub(super) fn take(
        &self,
        cursor: &mut u64,
        max_bytes: usize,
        with_values: bool,
        events: &mut Vec<Arc<WatchEvent>>,
    ) -> Taken {
        let mut state = self.state.lock();
        if let Some(end) = state.end {
            return Taken::End(end);
        }
        let Some(offset) = state.offset_of(*cursor) else {
            return if *cursor < state.gap_end {
                Taken::Gap
            } else {
                Taken::TooSlow
            };
        };
        let (mut count, mut bytes) = (0, 0_usize);
        for slot in state.slots.range(offset..) {
            bytes = bytes.saturating_add(slot.event.told_bytes(with_values));
            if count > 0 && bytes > max_bytes {
                break;
            }
            events.push(slot.event.clone());
            count += 1;
        }
        if count == 0 {
            return Taken::Nothing;
        }
        state.move_from(*cursor);
        *cursor += count;
        state.move_to(*cursor);
        state.remove_passed();
        Taken::Events
    }

    /// Returns whether a stream has all events and its place.
    pub(super) fn has_all(&self, cursor: u64) -> bool {
        let state = self.state.lock();
        state.end.is_none() && cursor == state.end_number()
    }

    /// Lets the streams that are furthest behind lose their place, so that their slots go. Returns
    /// `None` if the ring is empty, else whether the ring has to be woken, and wasn't to be before.
    pub(super) fn evict(&self) -> Option<bool> {
        let mut state = self.state.lock();
        state.slots.front_mut()?.waiting = 0;
        state.remove_passed();
        Some(state.mark_changed())
    }

    /// Lets all streams lose their place, since the node itself has missed changes. Returns whether
    /// the ring has to be woken, and wasn't to be before.
    pub(super) fn lose_all(&self) -> bool {
        let mut state = self.state.lock();
        state.clear();
        state.gap_end = state.first;
        state.mark_changed()
    }

    /// Ends all streams. Returns whether the ring has to be woken, and wasn't to be before.
    pub(super) fn finish(&self, end: WatchEnd) -> bool {
        let mut state = self.state.lock();
        state.clear();
        state.end = Some(end);
        state.mark_changed()
    }

    /// Returns about how many bytes the events in the ring have; 0 only if there are none. A bucket
    /// may have many rings of many events, so of these some stand for all.
    pub(super) fn bytes(&self) -> usize {
        let state = self.state.lock();
        let step = state.slots.len().div_ceil(MAX_SUMMED_EVENTS).max(1);
        let slots = state.slots.iter().step_by(step);
        let bytes: usize = slots.map(|slot| slot.event.buffered_bytes()).sum();
        bytes.saturating_mul(step)
    }
}

impl RingState {
    /// Returns the number of the slot that comes next.
    fn end_number(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Returns the index of a cursor's slot, or their number if it is at the end; `None` if the
    /// cursor's stream has lost its place.
    fn offset_of(&self, cursor: u64) -> Option<usize> {
        let offset = cursor.checked_sub(self.first)?;
        usize::try_from(offset).ok()
    }

    /// Counts a stream no more at its cursor, unless it has lost its place.
    fn move_from(&mut self, cursor: u64) {
        let Some(offset) = self.offset_of(cursor) else {
            return;
        };
        match self.slots.get_mut(offset) {
            Some(slot) => slot.waiting -= 1,
            None => self.at_end -= 1,
        }
    }

    /// Counts a stream at its cursor.
    fn move_to(&mut self, cursor: u64) {
        let slot = self.offset_of(cursor);
        match slot.and_then(|offset| self.slots.get_mut(offset)) {
            Some(slot) => slot.waiting += 1,
            None => self.at_end += 1,
        }
    }

    /// Removes the slots that no stream will take any more.
    fn remove_passed(&mut self) {
        let is_passed = |slot: &Slot| slot.waiting == 0;
        while self.slots.front().is_some_and(is_passed)
            && let Some(slot) = self.slots.pop_front()
        {
            slot.event.leave_ring();
            self.first += 1;
        }
    }

    /// Removes all slots, and lets all streams lose their place.
    fn clear(&mut self) {
        // One more, so that the streams that had all events are before it as well.
        self.first = self.end_number() + 1;
        for slot in self.slots.drain(..) {
            slot.event.leave_ring();
        }
        self.at_end = 0;
    }

    fn mark_changed(&mut self) -> bool {
        !std::mem::replace(&mut self.needs_wake, true)
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
