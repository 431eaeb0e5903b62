//! Quotas of a bucket, which enforce a plan's number of keys and of bytes without a count for each
//! write.

mod byte_quota;
mod usage_survey;

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

use crate::types::NodeId;

pub(crate) use self::byte_quota::ByteQuota;
pub(crate) use self::usage_survey::{GrantDecision, UsageSurvey};

/// Maximum age of a grant on arrival: an older one is not used. It is less than the part of the
/// followers' promise that a Raft lease leaves out.
pub(crate) const GRANT_TIMEOUT: Duration = Duration::from_millis(100);
/// Time after which a node's reported lease includes a grant, if the node uses it. The rates of
/// monotonic clocks may differ by much less than this exceeds [`GRANT_TIMEOUT`].
const GRANT_CONFIRM_TIMEOUT: Duration = Duration::from_millis(200);

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
pub struct KeyQuota {
    /// Available quota, generation, and quota reserved by writes in progress: a single word, so
    /// that a reader sees each key in one of the two. Quota is released only to the generation that
    /// it is from.
    state: AtomicU64,
    /// Time at which the available quota was requested, in nanoseconds after `start`; or earlier.
    requested_at: AtomicU64,
    start: Instant,
    /// Maximum number of keys in the bucket.
    limit: AtomicU64,
    /// Lock held while quota is received or reported. Its value is the ID of the last received
    /// grant.
    last_grant: Mutex<u64>,
    /// Lock of the task that requests another block; others wait for it.
    pub refill_lock: tokio::sync::Mutex<()>,
    /// Lock held by the leader of the bucket's home shard while it makes a grant.
    pub grant_lock: tokio::sync::Mutex<()>,
    /// Grants made here that their nodes haven't been seen to have.
    unconfirmed_grants: Mutex<HashMap<NodeId, SentQuotaGrant>>,
    released: Notify,
}

const ONE_RESERVED: u64 = 1;
const RESERVED_BITS: u32 = 24;
const ONE_GENERATION: u64 = 1 << RESERVED_BITS;
const GENERATION_BITS: u32 = 14;
const ONE_AVAILABLE: u64 = 1 << (RESERVED_BITS + GENERATION_BITS);
const MAX_GRANT_KEYS: u64 = u64::MAX / ONE_AVAILABLE;

fn available_of(state: u64) -> u64 {
    state / ONE_AVAILABLE
}

fn reserved_of(state: u64) -> u64 {
    state % ONE_GENERATION
}

fn generation_of(state: u64) -> u64 {
    state % ONE_AVAILABLE / ONE_GENERATION
}

/// Starts the next generation, with `left` keys available.
fn next_generation(state: u64, left: u64) -> u64 {
    let generation = (generation_of(state) + 1) % (1 << GENERATION_BITS);
    left * ONE_AVAILABLE + generation * ONE_GENERATION + reserved_of(state)
}

/// Grant of quota to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaGrant {
    /// ID of the grant.
    pub id: u64,
    /// Number of keys.
    pub keys: u64,
}

/// Request of a node for quota.
#[derive(Clone, Copy, Debug)]
pub struct QuotaRequest {
    /// Time of the request.
    pub requested_at: Instant,
    /// Limit that the node knew.
    pub limit: u64,
}

#[derive(Clone, Copy, Debug)]
struct SentQuotaGrant {
    grant: QuotaGrant,
    made_at: Instant,
}

/// Quota that a node has been granted and that isn't used for a key yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLease {
    /// Available for writes.
    pub available: u64,
    /// Reserved by writes in progress.
    pub reserved: u64,
    /// ID of the last grant that it includes.
    pub last_grant: u64,
}

/// Result of a request for more quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotaDemand {
    /// Quota is available again.
    Granted,
    /// Writes in progress have reserved all of it, or may have: wait for one to end.
    Wait,
    /// The bucket is full.
    Full,
}

impl Default for KeyQuota {
    fn default() -> Self {
        Self {
            state: AtomicU64::new(0),
            requested_at: AtomicU64::new(0),
            start: Instant::now(),
            limit: AtomicU64::new(0),
            last_grant: Mutex::new(0),
            refill_lock: tokio::sync::Mutex::default(),
            grant_lock: tokio::sync::Mutex::default(),
            unconfirmed_grants: Mutex::default(),
            released: Notify::new(),
        }
    }
}

impl KeyQuota {
    /// Reserves quota for one key of a shard that this node has led since `led_since`, if any is
    /// available without counting.
    pub fn reserve(self: &Arc<Self>, led_since: Instant) -> Option<Reservation> {
        // This is read first: the reserved quota was requested then, or later.
        let requested_at = self.requested_at.load(Ordering::Acquire);
        if requested_at < self.nanos_since_start(led_since) {
            return None;
        }
        let reserve_one =
            |state| (available_of(state) > 0).then(|| state - ONE_AVAILABLE + ONE_RESERVED);
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        let state = self
            .state
            .fetch_update(release, acquire, reserve_one)
            .ok()?;
        Some(Reservation {
            quota: self.clone(),
            requested_at,
            generation: generation_of(state),
            is_used: true,
        })
    }

    /// Returns whether quota is available for a shard that this node has led since `led_since`.
    pub fn has_quota(&self, led_since: Instant) -> bool {
        self.requested_at.load(Ordering::Acquire) >= self.nanos_since_start(led_since)
            && available_of(self.state.load(Ordering::Acquire)) > 0
    }

    /// Maximum number of keys in the bucket.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Quota of this node. With `recall`, the available part is given up.
    pub fn lease(&self, recall: bool) -> QuotaLease {
        let last_grant = self.last_grant.lock();
        let state = if recall {
            let drop_available = |state| Some(state % ONE_AVAILABLE);
            let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
            let before = self.state.fetch_update(release, acquire, drop_available);
            before.unwrap_or_else(|state| state) % ONE_AVAILABLE
        } else {
            self.state.load(Ordering::Acquire)
        };
        QuotaLease {
            available: available_of(state),
            reserved: reserved_of(state),
            last_grant: *last_grant,
        }
    }

    /// Receives a grant that took at least `took` to make. It replaces the available quota. Returns
    /// whether it came in time and the limit is unchanged.
    pub fn accept_grant(&self, grant: QuotaGrant, request: QuotaRequest, took: Duration) -> bool {
        self.accept_grant_at(Instant::now, grant, request, took)
    }

    fn accept_grant_at(
        &self,
        now: impl Fn() -> Instant,
        grant: QuotaGrant,
        request: QuotaRequest,
        took: Duration,
    ) -> bool {
        let mut last_grant = self.last_grant.lock();
        *last_grant = grant.id;
        // This is decided under the lock, while no report of the quota can be made.
        let age = now().saturating_duration_since(request.requested_at);
        let is_in_time = age.saturating_sub(took) < GRANT_TIMEOUT;
        let is_usable = is_in_time && self.limit() == request.limit;
        if is_usable {
            self.start_generation(0);
            let requested_at = self.nanos_since_start(request.requested_at);
            self.requested_at.store(requested_at, Ordering::Release);
            self.start_generation(grant.keys.min(MAX_GRANT_KEYS));
        }
        is_usable
    }

    /// Creates a grant of `keys` keys.
    pub fn new_grant(&self, keys: u64) -> QuotaGrant {
        // The ID is random, so that grants of different nodes have different IDs; never 0.
        let id = RandomState::new().hash_one(keys) | 1;
        let keys = keys.min(MAX_GRANT_KEYS);
        QuotaGrant { id, keys }
    }

    /// Records a grant sent to a node: it counts until it is seen there, or can't be used any more.
    pub fn record_sent_grant(&self, node: NodeId, grant: QuotaGrant, made: Instant) {
        self.unconfirmed_grants.lock().insert(
            node,
            SentQuotaGrant {
                grant,
                made_at: made,
            },
        );
    }

    /// Drops the grant to a node that asks again: the node doesn't wait for an earlier grant any
    /// more.
    pub fn forget_grant(&self, node: NodeId) {
        self.unconfirmed_grants.lock().remove(&node);
    }

    /// Records the last grant that a node reports.
    pub fn confirm_grant(&self, node: NodeId, id: u64) {
        let mut sent = self.unconfirmed_grants.lock();
        if sent.get(&node).is_some_and(|sent| sent.grant.id == id) {
            sent.remove(&node);
        }
    }

    /// Number of keys in grants that may be in flight when all nodes are queried at `queried_at` or
    /// later. An older grant is included in their reports: it has arrived, or is not used.
    pub fn unconfirmed_keys(&self, queried_at: Instant) -> u64 {
        let mut sent = self.unconfirmed_grants.lock();
        sent.retain(|_, sent| {
            queried_at.saturating_duration_since(sent.made_at) < GRANT_CONFIRM_TIMEOUT
        });
        sent.values().map(|sent| sent.grant.keys).sum()
    }

    /// Sets the maximum number of keys. Quota that was granted under another limit is dropped.
    pub fn set_limit(&self, limit: u64) {
        let _lock = self.last_grant.lock();
        if self.limit.swap(limit, Ordering::AcqRel) != limit {
            self.start_generation(0);
        }
    }

    /// Starts a generation with `left` keys available. The caller must hold `last_grant`.
    fn start_generation(&self, left: u64) {
        let renewed = |state| Some(next_generation(state, left));
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        // The update always yields a next state.
        let _ = self.state.fetch_update(release, acquire, renewed);
    }

    fn nanos_since_start(&self, at: Instant) -> u64 {
        let elapsed = at.saturating_duration_since(self.start);
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Completes when quota is released after the call.
    pub fn released(&self) -> tokio::sync::futures::Notified<'_> {
        self.released.notified()
    }
}

/// Reservation of quota for one key, while its write is in progress. When it ends, the key is
/// either counted in the state, or the quota is free for the next refill.
#[derive(Debug)]
pub struct Reservation {
    quota: Arc<KeyQuota>,
    requested_at: u64,
    generation: u64,
    is_used: bool,
}

impl Reservation {
    /// Releases the quota at once: the key existed before.
    pub fn release(mut self) {
        self.is_used = false;
    }

    /// Returns whether this node requested the quota at `led_since` or later: otherwise a write in
    /// the term that this node has led since then must not use it.
    pub fn was_requested_since(&self, led_since: Instant) -> bool {
        self.requested_at >= self.quota.nanos_since_start(led_since)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let released = |state| {
            let is_reusable = !self.is_used && generation_of(state) == self.generation;
            Some(state - ONE_RESERVED + u64::from(is_reusable) * ONE_AVAILABLE)
        };
        let (acquire, release) = (Ordering::Acquire, Ordering::AcqRel);
        // The update always yields a next state.
        let _ = self.quota.state.fetch_update(release, acquire, released);
        self.quota.released.notify_waiters();
    }
}
