//! Quotas of a bucket, so that a plan's number of keys and of bytes is kept without counting at each
//! write.

mod bytes;
mod survey;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::raft::NodeId;

pub use self::bytes::ByteQuota;
pub use self::survey::{Grantable, Survey};

/// A grant that is older than this when it arrives is not used. Less than the part of the
/// followers' promise that a lease leaves out.
pub const GRANT_TIMEOUT: Duration = Duration::from_millis(100);
/// What a node holds that was asked after this time includes a grant, if the node uses it.
/// Monotonic clocks may differ in rate by much less than this is longer than [`GRANT_TIMEOUT`].
const GRANT_SEEN_AFTER: Duration = Duration::from_millis(200);

/// The room that this node holds for new keys in a bucket, granted in blocks so that most writes
/// don't count anything.
///
/// Invariant: the keys counted at the last grant, plus the room that can still be used on any node,
/// taken or left, never exceed the limit. A writer that doesn't know whether its key is new takes
/// room and gives it back if it wasn't.
///
/// Room can be used for a shard only in a term that this node led already when it asked for the
/// room ([`Self::take`], [`Reservation::was_asked_since`]). So a node that leads no shard any more
/// holds none that could be used, whether it can be asked or not, and may lead again later.
#[derive(Debug)]
pub struct KeyBudget {
    /// Room left, generation, and room taken by writes under way: one word, so that whoever asks
    /// sees each key in one of the two. Room goes back only to the generation that it is from.
    state: AtomicU64,
    /// When the room that is left was asked for, in nanoseconds after `start`; or earlier.
    asked: AtomicU64,
    start: Instant,
    /// How many keys the bucket may have.
    limit: AtomicU64,
    /// Held while room comes or is told. Its value is the last grant that arrived.
    last_grant: Mutex<u64>,
    /// Held by whoever asks for another block, so that one does and the others wait.
    pub refilling: tokio::sync::Mutex<()>,
    /// Held while a grant is made, by the leader of the bucket's home shard.
    pub granting: tokio::sync::Mutex<()>,
    /// Grants made here that their nodes weren't seen to have yet.
    sent: Mutex<HashMap<NodeId, SentGrant>>,
    given_back: Notify,
}

const ONE_TAKEN: u64 = 1;
const TAKEN_BITS: u32 = 24;
const ONE_GENERATION: u64 = 1 << TAKEN_BITS;
const GENERATION_BITS: u32 = 14;
const ONE_LEFT: u64 = 1 << (TAKEN_BITS + GENERATION_BITS);
const MAX_BLOCK: u64 = u64::MAX / ONE_LEFT;

fn left_of(state: u64) -> u64 {
    state / ONE_LEFT
}

fn taken_of(state: u64) -> u64 {
    state % ONE_GENERATION
}

fn generation_of(state: u64) -> u64 {
    state % ONE_LEFT / ONE_GENERATION
}

/// The next generation, with so much room left.
fn renewed(state: u64, left: u64) -> u64 {
    let generation = (generation_of(state) + 1) % (1 << GENERATION_BITS);
    left * ONE_LEFT + generation * ONE_GENERATION + taken_of(state)
}

/// Room granted to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Names it.
    pub id: u64,
    /// For so many keys.
    pub keys: u64,
}

/// A node's request for room.
#[derive(Clone, Copy, Debug)]
pub struct GrantRequest {
    /// When it asked.
    pub asked: Instant,
    /// The limit that it knew.
    pub limit: u64,
}

#[derive(Clone, Copy, Debug)]
struct SentGrant {
    grant: Grant,
    made: Instant,
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
    /// All that is left is taken by writes under way, or may be: wait for one to end.
    Wait,
    /// The bucket is full.
    Full,
}

impl Default for KeyBudget {
    fn default() -> Self {
        Self {
            state: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            start: Instant::now(),
            limit: AtomicU64::new(0),
            last_grant: Mutex::new(0),
            refilling: tokio::sync::Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            sent: Mutex::default(),
            given_back: Notify::new(),
        }
    }
}

impl KeyBudget {
    /// Takes room for one key of a shard that this node leads since `led_since`, if there is any
    /// without counting.
    pub fn take(self: &Arc<Self>, led_since: Instant) -> Option<Reservation> {
        // First: what is taken was asked for then, or later.
        let asked = self.asked.load(Ordering::Acquire);
        if asked < self.nanos(led_since) {
            return None;
        }
        let take = |state| (left_of(state) > 0).then(|| state - ONE_LEFT + ONE_TAKEN);
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        let state = self.state.fetch_update(release, acquire, take).ok()?;
        Some(Reservation {
            budget: self.clone(),
            asked,
            generation: generation_of(state),
            was_used: true,
        })
    }

    /// Whether there is room to take for a shard that this node leads since `led_since`.
    pub fn has_room(&self, led_since: Instant) -> bool {
        self.asked.load(Ordering::Acquire) >= self.nanos(led_since)
            && left_of(self.state.load(Ordering::Acquire)) > 0
    }

    /// How many keys the bucket may have.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// The room held here; with `recall`, what isn't taken is given back.
    pub fn held(&self, recall: bool) -> Room {
        let last_grant = self.last_grant.lock();
        let state = if recall {
            let none_left = |state| Some(state % ONE_LEFT);
            let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
            let before = self.state.fetch_update(release, acquire, none_left);
            before.unwrap_or_else(|state| state) % ONE_LEFT
        } else {
            self.state.load(Ordering::Acquire)
        };
        Room {
            left: left_of(state),
            taken: taken_of(state),
            last_grant: *last_grant,
        }
    }

    /// A grant has arrived, which took `took` at least to be made. It takes the place of the room
    /// that is left. Returns whether it came in time and the limit is still the same.
    pub fn receive(&self, grant: Grant, request: GrantRequest, took: Duration) -> bool {
        self.receive_at(Instant::now, grant, request, took)
    }

    fn receive_at(
        &self,
        now: impl Fn() -> Instant,
        grant: Grant,
        request: GrantRequest,
        took: Duration,
    ) -> bool {
        let mut last_grant = self.last_grant.lock();
        *last_grant = grant.id;
        // Found out while nobody can be told what is held here.
        let since_asked = now().saturating_duration_since(request.asked);
        let in_time = since_asked.saturating_sub(took) < GRANT_TIMEOUT;
        let usable = in_time && self.limit() == request.limit;
        if usable {
            self.renew(0);
            let asked = self.nanos(request.asked);
            self.asked.store(asked, Ordering::Release);
            self.renew(grant.keys.min(MAX_BLOCK));
        }
        usable
    }

    /// A new grant of so many keys.
    pub fn next_grant(&self, keys: u64) -> Grant {
        // Random, so that grants of different nodes have different names; never 0.
        let id = RandomState::new().hash_one(keys) | 1;
        let keys = keys.min(MAX_BLOCK);
        Grant { id, keys }
    }

    /// A grant goes to a node: it counts until it is seen there, or can't be used any more.
    pub fn sent_grant(&self, node: NodeId, grant: Grant, made: Instant) {
        self.sent.lock().insert(node, SentGrant { grant, made });
    }

    /// A node asks again: it doesn't wait for an earlier grant any more.
    pub fn forget_grant_to(&self, node: NodeId) {
        self.sent.lock().remove(&node);
    }

    /// A node says which grant it got last.
    pub fn seen_grant(&self, node: NodeId, id: u64) {
        let mut sent = self.sent.lock();
        if sent.get(&node).is_some_and(|sent| sent.grant.id == id) {
            sent.remove(&node);
        }
    }

    /// Keys of the grants that may be on their way, when all nodes were asked what they hold at
    /// `asked` or later. An older grant is in the answers: it has arrived, or is not used.
    pub fn unseen_grants(&self, asked: Instant) -> u64 {
        let mut sent = self.sent.lock();
        sent.retain(|_, sent| asked.saturating_duration_since(sent.made) < GRANT_SEEN_AFTER);
        sent.values().map(|sent| sent.grant.keys).sum()
    }

    /// Sets how many keys the bucket may have. Room that was granted under another limit goes.
    pub fn set_limit(&self, limit: u64) {
        let _receives_none = self.last_grant.lock();
        if self.limit.swap(limit, Ordering::AcqRel) != limit {
            self.renew(0);
        }
    }

    /// Begins a generation with so much room. Only with `last_grant` held.
    fn renew(&self, left: u64) {
        let renewed = |state| Some(renewed(state, left));
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        // It always has a next state.
        let _ = self.state.fetch_update(release, acquire, renewed);
    }

    fn nanos(&self, at: Instant) -> u64 {
        let after = at.saturating_duration_since(self.start);
        u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)
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
    asked: u64,
    generation: u64,
    was_used: bool,
}

impl Reservation {
    /// The key was there before: its room can be used again at once.
    pub fn unused(mut self) {
        self.was_used = false;
    }

    /// Whether this node asked for it at `led_since` or later: else a write in the term that this
    /// node leads since then may not use it.
    pub fn was_asked_since(&self, led_since: Instant) -> bool {
        self.asked >= self.budget.nanos(led_since)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let back = |state| {
            let goes_back = !self.was_used && generation_of(state) == self.generation;
            Some(state - ONE_TAKEN + u64::from(goes_back) * ONE_LEFT)
        };
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        // It always has a next state.
        let _ = self.budget.state.fetch_update(release, acquire, back);
        self.budget.given_back.notify_waiters();
    }
}
