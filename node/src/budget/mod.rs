//! Quotas of a bucket, which enforce a plan's number of keys and of bytes without a count for each
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

/// Maximum age of a grant on arrival: an older one is not used. It is less than the part of the
/// followers' promise that a Raft lease leaves out.
pub const GRANT_TIMEOUT: Duration = Duration::from_millis(100);
/// Time after which a node's reported lease includes a grant, if the node uses it. The rates of
/// monotonic clocks may differ by much less than this exceeds [`GRANT_TIMEOUT`].
const GRANT_SEEN_AFTER: Duration = Duration::from_millis(200);

/// Quota that this node has for new keys in a bucket, granted in blocks so that most writes don't
/// count anything.
///
/// Invariant: the keys counted at the last grant, plus the quota that can still be used on any
/// node, reserved or available, never exceed the limit. A writer that doesn't know whether its key
/// is new reserves quota and releases it if it wasn't.
///
/// Quota can be used for a shard only in a term that this node led already when it requested the
/// quota ([`Self::reserve`], [`Reservation::was_requested_since`]). So a node that leads no shard
/// any more has no usable quota, whether it can be queried or not, and may lead again later.
#[derive(Debug)]
pub struct KeyBudget {
    /// Available quota, generation, and quota reserved by writes in progress: a single word, so
    /// that a reader sees each key in one of the two. Quota is released only to the generation that
    /// it is from.
    state: AtomicU64,
    /// Time at which the available quota was requested, in nanoseconds after `start`; or earlier.
    asked: AtomicU64,
    start: Instant,
    /// Maximum number of keys in the bucket.
    limit: AtomicU64,
    /// Lock held while quota is received or reported. Its value is the ID of the last received
    /// grant.
    last_grant: Mutex<u64>,
    /// Lock of the task that requests another block; others wait for it.
    pub refilling: tokio::sync::Mutex<()>,
    /// Lock held by the leader of the bucket's home shard while it makes a grant.
    pub granting: tokio::sync::Mutex<()>,
    /// Grants made here that their nodes haven't been seen to have.
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

/// Starts the next generation, with `left` keys available.
fn renewed(state: u64, left: u64) -> u64 {
    let generation = (generation_of(state) + 1) % (1 << GENERATION_BITS);
    left * ONE_LEFT + generation * ONE_GENERATION + taken_of(state)
}

/// Grant of quota to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// ID of the grant.
    pub id: u64,
    /// Number of keys.
    pub keys: u64,
}

/// Request of a node for quota.
#[derive(Clone, Copy, Debug)]
pub struct GrantRequest {
    /// Time of the request.
    pub asked: Instant,
    /// Limit that the node knew.
    pub limit: u64,
}

#[derive(Clone, Copy, Debug)]
struct SentGrant {
    grant: Grant,
    made: Instant,
}

/// Quota that a node has been granted and that isn't used for a key yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Available for writes.
    pub left: u64,
    /// Reserved by writes in progress.
    pub taken: u64,
    /// ID of the last grant that it includes.
    pub last_grant: u64,
}

/// Result of a request for more quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Quota is available again.
    Granted,
    /// Writes in progress have reserved all of it, or may have: wait for one to end.
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
    /// Reserves quota for one key of a shard that this node has led since `led_since`, if any is
    /// available without counting.
    pub fn take(self: &Arc<Self>, led_since: Instant) -> Option<Reservation> {
        // This is read first: the reserved quota was requested then, or later.
        let requested_at = self.asked.load(Ordering::Acquire);
        if requested_at < self.nanos(led_since) {
            return None;
        }
        let reserve_one = |state| (left_of(state) > 0).then(|| state - ONE_LEFT + ONE_TAKEN);
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        let state = self.state.fetch_update(release, acquire, reserve_one).ok()?;
        Some(Reservation {
            budget: self.clone(),
            asked: requested_at,
            generation: generation_of(state),
            was_used: true,
        })
    }

    /// Returns whether quota is available for a shard that this node has led since `led_since`.
    pub fn has_room(&self, led_since: Instant) -> bool {
        self.asked.load(Ordering::Acquire) >= self.nanos(led_since)
            && left_of(self.state.load(Ordering::Acquire)) > 0
    }

    /// Maximum number of keys in the bucket.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Quota of this node. With `recall`, the available part is given up.
    pub fn held(&self, recall: bool) -> Room {
        let last_grant = self.last_grant.lock();
        let state = if recall {
            let drop_available = |state| Some(state % ONE_LEFT);
            let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
            let before = self.state.fetch_update(release, acquire, drop_available);
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

    /// Receives a grant that took at least `took` to make. It replaces the available quota. Returns
    /// whether it came in time and the limit is unchanged.
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
        // This is decided under the lock, while no report of the quota can be made.
        let age = now().saturating_duration_since(request.asked);
        let is_in_time = age.saturating_sub(took) < GRANT_TIMEOUT;
        let is_usable = is_in_time && self.limit() == request.limit;
        if is_usable {
            self.renew(0);
            let requested_at = self.nanos(request.asked);
            self.asked.store(requested_at, Ordering::Release);
            self.renew(grant.keys.min(MAX_BLOCK));
        }
        is_usable
    }

    /// Creates a grant of `keys` keys.
    pub fn next_grant(&self, keys: u64) -> Grant {
        // The ID is random, so that grants of different nodes have different IDs; never 0.
        let id = RandomState::new().hash_one(keys) | 1;
        let keys = keys.min(MAX_BLOCK);
        Grant { id, keys }
    }

    /// Records a grant sent to a node: it counts until it is seen there, or can't be used any more.
    pub fn sent_grant(&self, node: NodeId, grant: Grant, made: Instant) {
        self.sent.lock().insert(node, SentGrant { grant, made });
    }

    /// Drops the grant to a node that asks again: the node doesn't wait for an earlier grant any
    /// more.
    pub fn forget_grant_to(&self, node: NodeId) {
        self.sent.lock().remove(&node);
    }

    /// Records the last grant that a node reports.
    pub fn seen_grant(&self, node: NodeId, id: u64) {
        let mut sent = self.sent.lock();
        if sent.get(&node).is_some_and(|sent| sent.grant.id == id) {
            sent.remove(&node);
        }
    }

    /// Number of keys in grants that may be in flight when all nodes are queried at `queried_at` or
    /// later. An older grant is included in their reports: it has arrived, or is not used.
    pub fn unseen_grants(&self, queried_at: Instant) -> u64 {
        let mut sent = self.sent.lock();
        sent.retain(|_, sent| queried_at.saturating_duration_since(sent.made) < GRANT_SEEN_AFTER);
        sent.values().map(|sent| sent.grant.keys).sum()
    }

    /// Sets the maximum number of keys. Quota that was granted under another limit is dropped.
    pub fn set_limit(&self, limit: u64) {
        let _lock = self.last_grant.lock();
        if self.limit.swap(limit, Ordering::AcqRel) != limit {
            self.renew(0);
        }
    }

    /// Starts a generation with `left` keys available. The caller must hold `last_grant`.
    fn renew(&self, left: u64) {
        let renewed = |state| Some(renewed(state, left));
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        // The update always yields a next state.
        let _ = self.state.fetch_update(release, acquire, renewed);
    }

    fn nanos(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.start);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Completes when quota is released after the call.
    pub fn given_back(&self) -> tokio::sync::futures::Notified<'_> {
        self.given_back.notified()
    }
}

/// Reservation of quota for one key, while its write is in progress. When it ends, the key is
/// either counted in the state, or the quota is free for the next refill.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<KeyBudget>,
    asked: u64,
    generation: u64,
    was_used: bool,
}

impl Reservation {
    /// Releases the quota at once: the key existed before.
    pub fn unused(mut self) {
        self.was_used = false;
    }

    /// Returns whether this node requested the quota at `led_since` or later: otherwise a write in
    /// the term that this node has led since then must not use it.
    pub fn was_asked_since(&self, led_since: Instant) -> bool {
        self.asked >= self.budget.nanos(led_since)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let released = |state| {
            let is_reusable = !self.was_used && generation_of(state) == self.generation;
            Some(state - ONE_TAKEN + u64::from(is_reusable) * ONE_LEFT)
        };
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        // The update always yields a next state.
        let _ = self.budget.state.fetch_update(release, acquire, released);
        self.budget.given_back.notify_waiters();
    }
}
