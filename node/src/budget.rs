//! Room for new keys, so that a plan's number of keys is kept without counting at each write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Room for new keys in a bucket, handed out in blocks so that most writes don't count anything.
///
/// Invariant: keys counted at the last refill, plus what was taken since and not given back, plus
/// the room left, never exceed the limit. A writer that doesn't know whether its key is new takes
/// room and gives it back if it wasn't.
#[derive(Debug, Default)]
pub struct KeyBudget {
    /// Room left (upper half) and room taken by writes under way (lower half): one word, so that
    /// a refill sees each key in one of the two.
    state: AtomicU64,
    /// How many keys the bucket may have.
    limit: AtomicU64,
    /// Held by whoever counts, so that one does and the others wait.
    pub counting: tokio::sync::Mutex<()>,
    given_back: Notify,
}

const ONE_LEFT: u64 = 1 << 32;
const ONE_TAKEN: u64 = 1;
const MAX_BLOCK: u64 = 1 << 30;

fn left_of(state: u64) -> u64 {
    state >> 32
}

fn taken_of(state: u64) -> u64 {
    state & u64::from(u32::MAX)
}

/// What a refill came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refill {
    /// There is room again.
    Room,
    /// All that is left is taken by writes under way: wait for one to end.
    Wait,
    /// The bucket is full.
    Full,
}

impl KeyBudget {
    /// Takes room for one key, if there is any without counting.
    pub fn take(self: &Arc<Self>) -> Option<Reservation> {
        let taken = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (left_of(state) > 0).then(|| state - ONE_LEFT + ONE_TAKEN)
            });
        taken.is_ok().then(|| Reservation {
            budget: self.clone(),
            limit: self.limit.load(Ordering::Acquire),
            was_used: true,
        })
    }

    /// Makes room again, under the lock of `counting`: `keys` were counted after `seen` was read,
    /// and room for a `1/parts` of the limit at most is handed out before counting again.
    pub fn refill(&self, seen: Seen, keys: u64, parts: u64) -> Refill {
        let limit = self.limit.load(Ordering::Acquire);
        let block = limit / parts.max(1);
        if left_of(self.state.load(Ordering::Acquire)) > 0 {
            return Refill::Room;
        }
        // A write that ended since `seen` is counted twice, one that began since took room that
        // `seen` holds: never too little is counted.
        let used = keys
            .saturating_add(taken_of(seen.0))
            .saturating_add(left_of(seen.0));
        let free = limit.saturating_sub(used);
        if free > 0 {
            let block = free.min(block.clamp(1, MAX_BLOCK));
            self.state.fetch_add(block * ONE_LEFT, Ordering::AcqRel);
            if self.limit.load(Ordering::Acquire) != limit {
                self.drop_room();
            }
            Refill::Room
        } else if taken_of(seen.0) > 0 {
            Refill::Wait
        } else {
            Refill::Full
        }
    }

    /// What is taken and left now, to be read before the keys are counted.
    pub fn seen(&self) -> Seen {
        Seen(self.state.load(Ordering::Acquire))
    }

    /// Sets how many keys the bucket may have. Room that was handed out under another limit goes.
    pub fn set_limit(&self, limit: u64) {
        if self.limit.swap(limit, Ordering::AcqRel) != limit {
            self.drop_room();
        }
    }

    fn drop_room(&self) {
        self.state.fetch_and(u64::from(u32::MAX), Ordering::AcqRel);
    }

    /// Ends when room is given back after the call.
    pub fn given_back(&self) -> tokio::sync::futures::Notified<'_> {
        self.given_back.notified()
    }
}

/// What was taken and left at some time.
#[derive(Clone, Copy, Debug)]
pub struct Seen(u64);

/// Room for one key, while its write is under way. When it ends, the key is either counted in the
/// state or the room is free for the next refill.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<KeyBudget>,
    /// The limit that it was taken under: room isn't given back to another one.
    limit: u64,
    was_used: bool,
}

impl Reservation {
    /// The key was there before: its room can be used again at once.
    pub fn unused(mut self) {
        self.was_used = self.budget.limit.load(Ordering::Acquire) != self.limit;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let back = if self.was_used {
            ONE_TAKEN
        } else {
            ONE_TAKEN.wrapping_sub(ONE_LEFT)
        };
        self.budget.state.fetch_sub(back, Ordering::AcqRel);
        self.budget.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(limit: u64) -> Arc<KeyBudget> {
        let budget = Arc::new(KeyBudget::default());
        budget.set_limit(limit);
        budget
    }

    fn refill(budget: &KeyBudget, parts: u64, keys: u64) -> Refill {
        budget.refill(budget.seen(), keys, parts)
    }

    #[test]
    fn room_is_handed_out_up_to_the_limit_and_not_beyond() {
        let budget = limited(10);
        let mut keys = 0;
        for _ in 0..10 {
            let reservation = budget.take().or_else(|| {
                assert_eq!(refill(&budget, 3, keys), Refill::Room);
                budget.take()
            });
            keys += 1;
            drop(reservation);
        }
        while budget.take().is_some() {}
        assert_eq!(refill(&budget, 3, keys), Refill::Full);
        assert_eq!(refill(&budget, 3, keys - 1), Refill::Room);
    }

    #[test]
    fn a_refill_waits_for_writes_under_way() {
        let budget = limited(1);
        assert_eq!(refill(&budget, 1, 0), Refill::Room);
        let reservation = budget.take().unwrap();
        assert!(budget.take().is_none());
        assert_eq!(refill(&budget, 1, 0), Refill::Wait);
        reservation.unused();
        assert!(budget.take().is_some());
        assert_eq!(refill(&budget, 1, 0), Refill::Room);
    }

    #[test]
    fn writers_in_parallel_never_exceed_the_limit_and_fill_it() {
        let budget = limited(5000);
        let keys = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (budget, keys) = (budget.clone(), keys.clone());
                std::thread::spawn(move || {
                    for n in 0.. {
                        if let Some(reservation) = budget.take() {
                            if (n + writer) % 3 == 0 {
                                reservation.unused();
                            } else {
                                assert!(keys.fetch_add(1, Ordering::AcqRel) < 5000);
                            }
                            continue;
                        }
                        let _one_counts = budget.counting.blocking_lock();
                        let seen = budget.seen();
                        match budget.refill(seen, keys.load(Ordering::Acquire), 700) {
                            Refill::Room | Refill::Wait => std::thread::yield_now(),
                            Refill::Full => return,
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(keys.load(Ordering::Acquire), 5000);
    }

    #[test]
    fn a_lower_limit_takes_back_the_room_handed_out_under_the_higher_one() {
        let budget = limited(1000);
        assert_eq!(refill(&budget, 1, 5), Refill::Room);
        let under_way = budget.take().unwrap();
        budget.set_limit(10);
        assert!(budget.take().is_none());
        assert_eq!(refill(&budget, 1, 9), Refill::Wait);
        drop(under_way);
        assert_eq!(refill(&budget, 1, 10), Refill::Full);
    }

    #[test]
    fn room_that_was_not_used_is_not_given_back_to_another_limit() {
        let budget = limited(1000);
        assert_eq!(refill(&budget, 1, 500), Refill::Room);
        let under_way = budget.take().unwrap();
        budget.set_limit(10);
        under_way.unused();
        assert!(budget.take().is_none());
        assert_eq!(refill(&budget, 1, 500), Refill::Full);
    }
}
