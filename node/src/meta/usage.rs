//! What this node counts of a bucket: reads since they were last reported, and room for new keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::types::Nanos;

/// Counters of one bucket on this node.
#[derive(Debug, Default)]
pub struct Usage {
    hits: AtomicU64,
    misses: AtomicU64,
    /// Room for new keys.
    pub budget: Arc<KeyBudget>,
    published: Mutex<[Option<(u64, Nanos)>; 2]>,
}

impl Usage {
    /// Counts a read.
    pub fn count_read(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Hits and misses since they were last taken.
    pub fn take_reads(&self) -> (u64, u64) {
        if self.reads() == (0, 0) {
            return (0, 0);
        }
        (
            self.hits.swap(0, Ordering::Relaxed),
            self.misses.swap(0, Ordering::Relaxed),
        )
    }

    /// Puts back what was taken and couldn't be reported.
    pub fn put_back(&self, (hits, misses): (u64, u64)) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// Hits and misses that wait to be reported.
    pub fn reads(&self) -> (u64, u64) {
        (
            self.hits.load(Ordering::Relaxed),
            self.misses.load(Ordering::Relaxed),
        )
    }

    /// The number of keys last published, if that was after `since`.
    pub fn published_since(&self, since: Nanos) -> Option<u64> {
        self.published.lock()[0]
            .filter(|(_, at)| *at > since)
            .map(|(keys, _)| keys)
    }

    /// Publishes a number of keys.
    pub fn publish(&self, keys: u64, now: Nanos) {
        let mut published = self.published.lock();
        *published = [Some((keys, now)), published[0]];
    }

    /// Whether `keys` is one of the last two numbers published, after `since`.
    pub fn was_published(&self, keys: u64, since: Nanos) -> bool {
        let published = self.published.lock();
        published
            .iter()
            .flatten()
            .any(|(number, at)| *number == keys && *at > since)
    }
}

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
            was_used: true,
        })
    }

    /// Makes room again, under the lock of `counting`: `keys` were counted after `seen` was read, `limit` is how many the bucket
    /// may have, `block` the most to hand out before counting again.
    pub fn refill(&self, seen: Seen, keys: u64, limit: u64, block: u64) -> Refill {
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

    /// Drops the room that is left: the limit has changed.
    pub fn reset(&self) {
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
    was_used: bool,
}

impl Reservation {
    /// The key was there before: its room can be used again at once.
    pub fn unused(mut self) {
        self.was_used = false;
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

    fn refill(budget: &KeyBudget, limit: u64, block: u64, keys: u64) -> Refill {
        budget.refill(budget.seen(), keys, limit, block)
    }

    #[test]
    fn room_is_handed_out_up_to_the_limit_and_not_beyond() {
        let budget = Arc::new(KeyBudget::default());
        let mut keys = 0;
        for _ in 0..10 {
            let reservation = budget.take().or_else(|| {
                assert_eq!(refill(&budget, 10, 4, keys), Refill::Room);
                budget.take()
            });
            keys += 1;
            drop(reservation);
        }
        while budget.take().is_some() {}
        assert_eq!(refill(&budget, 10, 4, keys), Refill::Full);
        assert_eq!(refill(&budget, 10, 4, keys - 1), Refill::Room);
    }

    #[test]
    fn a_refill_waits_for_writes_under_way() {
        let budget = Arc::new(KeyBudget::default());
        assert_eq!(refill(&budget, 1, 8, 0), Refill::Room);
        let reservation = budget.take().unwrap();
        assert!(budget.take().is_none());
        assert_eq!(refill(&budget, 1, 8, 0), Refill::Wait);
        reservation.unused();
        assert!(budget.take().is_some());
        assert_eq!(refill(&budget, 1, 8, 0), Refill::Room);
    }

    #[test]
    fn writers_in_parallel_never_exceed_the_limit_and_fill_it() {
        let budget = Arc::new(KeyBudget::default());
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
                        match budget.refill(seen, keys.load(Ordering::Acquire), 5000, 7) {
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
    fn published_numbers_are_the_last_two_and_recent() {
        let usage = Usage::default();
        usage.publish(1, 100);
        usage.publish(2, 200);
        assert!(usage.was_published(1, 50) && usage.was_published(2, 50));
        assert!(!usage.was_published(1, 150));
        usage.publish(3, 300);
        assert!(!usage.was_published(1, 50));
        assert_eq!(usage.published_since(250), Some(3));
        assert_eq!(usage.published_since(300), None);
    }
}
