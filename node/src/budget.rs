//! Room for new keys, so that a plan's number of keys is kept without counting at each write.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::raft::NodeId;

/// The room that this node holds for new keys in a bucket, granted in blocks so that most writes
/// don't count anything.
///
/// Invariant: the keys counted at the last grant, plus the room that all nodes hold, taken or
/// left, never exceed the limit. A writer that doesn't know whether its key is new takes room and
/// gives it back if it wasn't.
#[derive(Debug, Default)]
pub struct KeyBudget {
    /// Room left (upper half) and room taken by writes under way (lower half): one word, so that
    /// whoever asks sees each key in one of the two.
    state: AtomicU64,
    /// How many keys the bucket may have.
    limit: AtomicU64,
    /// The last grant that arrived.
    last_grant: AtomicU64,
    /// Held by whoever asks for another block, so that one does and the others wait.
    pub refilling: tokio::sync::Mutex<()>,
    /// Held while a grant is made, by the leader of the bucket's home shard.
    pub granting: tokio::sync::Mutex<()>,
    /// Grants made here that their nodes weren't seen to have yet.
    sent: Mutex<HashMap<NodeId, Grant>>,
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

/// Room granted to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Names it.
    pub id: u64,
    /// For so many keys.
    pub keys: u64,
}

/// Room that a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Granted, and not used yet.
    pub left: u64,
    /// Taken by writes under way.
    pub taken: u64,
    /// The last grant that is in it.
    pub last_grant: u64,
}

/// What a demand for room came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// There is room again.
    Granted,
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

    /// Whether there is room to take.
    pub fn has_room(&self) -> bool {
        left_of(self.state.load(Ordering::Acquire)) > 0
    }

    /// How many keys the bucket may have.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// The room held here; with `recall`, what isn't taken is given back.
    pub fn held(&self, recall: bool) -> Room {
        // First: what it names is in the state by then.
        let last_grant = self.last_grant.load(Ordering::Acquire);
        if recall {
            self.drop_room();
        }
        let state = self.state.load(Ordering::Acquire);
        Room {
            left: left_of(state),
            taken: taken_of(state),
            last_grant,
        }
    }

    /// A grant has arrived that was asked for under `limit`.
    pub fn receive(&self, grant: Grant, limit: u64) {
        if self.limit() == limit {
            let keys = grant.keys.min(MAX_BLOCK);
            self.state.fetch_add(keys * ONE_LEFT, Ordering::AcqRel);
            if self.limit() != limit {
                self.drop_room();
            }
        }
        self.last_grant.store(grant.id, Ordering::Release);
    }

    /// A new grant of so many keys.
    pub fn next_grant(&self, keys: u64) -> Grant {
        // Random, so that grants of different nodes have different names; never 0.
        let id = RandomState::new().hash_one(keys) | 1;
        let keys = keys.min(MAX_BLOCK);
        Grant { id, keys }
    }

    /// A grant goes to a node: it counts until it is seen there.
    pub fn sent_grant(&self, node: NodeId, grant: Grant) {
        self.sent.lock().insert(node, grant);
    }

    /// A node asks again: it doesn't wait for an earlier grant any more.
    pub fn forget_grant_to(&self, node: NodeId) {
        self.sent.lock().remove(&node);
    }

    /// A node says which grant it got last.
    pub fn seen_grant(&self, node: NodeId, id: u64) {
        let mut sent = self.sent.lock();
        if sent.get(&node).is_some_and(|grant| grant.id == id) {
            sent.remove(&node);
        }
    }

    /// Keys of the grants that are on their way.
    pub fn unseen_grants(&self) -> u64 {
        self.sent.lock().values().map(|grant| grant.keys).sum()
    }

    /// Sets how many keys the bucket may have. Room that was granted under another limit goes.
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

    fn grant(budget: &KeyBudget, keys: u64) {
        budget.receive(budget.next_grant(keys), budget.limit());
    }

    #[test]
    fn room_is_taken_up_to_what_was_granted() {
        let budget = limited(10);
        assert!(budget.take().is_none());
        grant(&budget, 2);
        let (one, two) = (budget.take().unwrap(), budget.take().unwrap());
        assert!(budget.take().is_none());
        assert_eq!((budget.held(false).left, budget.held(false).taken), (0, 2));
        one.unused();
        drop(two);
        assert_eq!((budget.held(false).left, budget.held(false).taken), (1, 0));
    }

    #[test]
    fn recalled_room_is_gone_and_taken_room_stays() {
        let budget = limited(10);
        grant(&budget, 5);
        let taken = budget.take().unwrap();
        let held = budget.held(true);
        assert_eq!((held.left, held.taken), (0, 1));
        assert!(!budget.has_room());
        drop(taken);
        assert_eq!(budget.held(false).taken, 0);
    }

    #[test]
    fn a_grant_counts_at_its_sender_until_it_is_seen() {
        let (sender, receiver) = (limited(10), limited(10));
        let grant = sender.next_grant(3);
        sender.sent_grant(7, grant);
        sender.seen_grant(7, receiver.held(false).last_grant);
        assert_eq!(sender.unseen_grants(), 3);
        receiver.receive(grant, 10);
        sender.seen_grant(7, receiver.held(false).last_grant);
        assert_eq!(sender.unseen_grants(), 0);
        sender.sent_grant(7, sender.next_grant(4));
        sender.forget_grant_to(7);
        assert_eq!(sender.unseen_grants(), 0);
    }

    #[test]
    fn a_lower_limit_takes_back_the_room_granted_under_the_higher_one() {
        let budget = limited(1000);
        grant(&budget, 5);
        let under_way = budget.take().unwrap();
        budget.set_limit(10);
        assert!(budget.take().is_none());
        under_way.unused();
        assert!(
            budget.take().is_none(),
            "room goes back to its own limit only"
        );
        let late = budget.next_grant(100);
        budget.receive(late, 1000);
        assert!(budget.take().is_none());
        assert_eq!(budget.held(false).last_grant, late.id);
    }

    #[test]
    fn writers_in_parallel_take_no_more_than_was_granted() {
        let budget = limited(u64::MAX);
        grant(&budget, 5000);
        let used = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..4_u64)
            .map(|writer| {
                let (budget, used) = (budget.clone(), used.clone());
                std::thread::spawn(move || {
                    let mut n = 0;
                    while let Some(reservation) = budget.take() {
                        n += 1;
                        if (n + writer) % 3 == 0 {
                            reservation.unused();
                        } else {
                            used.fetch_add(1, Ordering::AcqRel);
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(used.load(Ordering::Acquire), 5000);
        assert_eq!((budget.held(false).left, budget.held(false).taken), (0, 0));
    }
}
