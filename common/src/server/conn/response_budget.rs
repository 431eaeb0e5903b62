//! Budget of one connection's pending responses.
//!
//! A client decides how fast it reads, and over HTTP/2 also how much of each response may be sent.
//! So the bytes of pending responses are counted, until the socket or HTTP/2's frames have taken
//! them:
//!
//! - A connection over HTTP/2 begins no further read while its responses reach the limit. The size
//!   of the responses to reads under way isn't known; each is estimated by the recent ones of this
//!   connection.
//! - The process has a budget for all connections, of which an address gets half. A response that
//!   doesn't fit is refused, unless it belongs to a request that has changed something.
//!
//! Over HTTP/1.1 one response is pending at a time. A small one isn't counted, which takes no lock
//! and no allocation.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::server::conn::state::ConnectionState;
use crate::server::memory_budget::MemoryBudget;

/// Pending bytes of each connection that aren't counted in the budget of the process: the number of
/// connections bounds them.
pub(crate) const UNCOUNTED_BYTES: usize = 16 << 10;
/// Granularity in which a connection acquires bytes from the process's budget and releases them.
const CHARGE_STEP_BYTES: usize = 16 << 10;
/// Initial and minimum estimate of the size of a connection's responses.
const INITIAL_RESPONSE_BYTES: usize = 64 << 10;
const MIN_RESPONSE_BYTES: usize = 4 << 10;

/// Budget of the pending responses of one connection.
#[derive(Debug)]
pub(crate) struct ResponseBudget {
    state: Arc<ConnectionState>,
    memory: Arc<MemoryBudget>,
    address: Option<IpAddr>,
    limit: usize,
    /// Bytes acquired from the process's budget.
    charged: AtomicUsize,
    charge_lock: Mutex<()>,
    /// Estimated bytes of the responses to reads under way.
    reserved: AtomicUsize,
    /// Estimated bytes of the next response.
    estimate: AtomicUsize,
    /// Set once a task has waited for a release.
    has_waiters: AtomicBool,
    released: Arc<Notify>,
}

/// Pending bytes of a response, until this is dropped.
#[derive(Debug)]
pub(crate) struct ResponsePermit {
    budget: Arc<ResponseBudget>,
    bytes: usize,
}

/// Reservation of a read under way for the estimated size of its response.
#[derive(Debug)]
pub(crate) struct ReadReservation<'a> {
    budget: &'a ResponseBudget,
    bytes: usize,
}

impl ResponseBudget {
    /// Creates a budget of `limit` bytes for a connection, which also count in the share that
    /// `address` has of the process's budget.
    pub(crate) fn new(
        state: Arc<ConnectionState>,
        memory: Arc<MemoryBudget>,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Self {
        Self {
            state,
            memory,
            address,
            limit,
            charged: AtomicUsize::new(0),
            charge_lock: Mutex::default(),
            reserved: AtomicUsize::new(0),
            estimate: AtomicUsize::new(INITIAL_RESPONSE_BYTES.min(limit)),
            has_waiters: AtomicBool::new(false),
            released: Arc::default(),
        }
    }

    /// Returns whether pending responses, with those to reads under way, reach the limit.
    pub(crate) fn is_full(&self) -> bool {
        self.state.pending_bytes() + self.reserved.load(Ordering::Relaxed) >= self.limit
    }

    /// Reserves bytes for the response to a read. `None` if the budget is full.
    pub(crate) fn try_reserve(&self) -> Option<ReadReservation<'_>> {
        if self.is_full() {
            return None;
        }
        let bytes = self.estimate.load(Ordering::Relaxed);
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        Some(ReadReservation {
            budget: self,
            bytes,
        })
    }

    /// Returns whether the process's budget has capacity for the estimated response to a read. If
    /// not, the read isn't made, since its response would be refused. Small ones are always made,
    /// and after some refusals larger ones are made again, since each refusal lowers the estimate.
    pub(crate) fn may_fit_budget(&self) -> bool {
        let bytes = self.estimate.load(Ordering::Relaxed);
        let fits = bytes <= UNCOUNTED_BYTES || self.memory.has_capacity(self.address, bytes);
        if !fits {
            self.record_size(0);
        }
        fits
    }

    /// Reserves bytes for the response to a read, as soon as the budget isn't full.
    pub(crate) async fn reserve(&self) -> ReadReservation<'_> {
        loop {
            let released = self.subscribe_release().notified();
            let mut released = std::pin::pin!(released);
            released.as_mut().enable();
            if let Some(expected) = self.try_reserve() {
                return expected;
            }
            released.await;
        }
    }

    /// Returns the notification of releases. A waiter has to check [`Self::is_full`] after it has
    /// registered.
    pub(crate) fn subscribe_release(&self) -> &Arc<Notify> {
        self.has_waiters.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        &self.released
    }

    /// Counts a pending response, if it fits into the process's budget, or is `forced`.
    pub(crate) fn acquire(self: &Arc<Self>, bytes: usize, forced: bool) -> Option<ResponsePermit> {
        let pending = self.state.add_pending(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        if pending > charged + UNCOUNTED_BYTES && !self.charge(forced) {
            self.release(bytes);
            return None;
        }
        Some(ResponsePermit {
            budget: Arc::clone(self),
            bytes,
        })
    }

    /// Counts a response of unknown length on the connection, until [`Self::end_stream`].
    pub(crate) fn begin_stream(&self) {
        self.state.begin_stream();
    }

    pub(crate) fn end_stream(&self) {
        self.state.end_stream();
    }

    /// Records the size of a response, for the estimate: it rises at once, and falls by an eighth.
    pub(crate) fn record_size(&self, bytes: usize) {
        let next = self.estimate.load(Ordering::Relaxed);
        let estimate = bytes.max(next - next / 8);
        let estimate = estimate.clamp(MIN_RESPONSE_BYTES.min(self.limit), self.limit);
        if estimate != next {
            self.estimate.store(estimate, Ordering::Relaxed);
        }
    }

    /// Acquires from the process's budget what is pending beyond the bytes acquired before.
    fn charge(&self, forced: bool) -> bool {
        let _lock = self.charge_lock.lock();
        let charged = self.charged.load(Ordering::Relaxed);
        let wanted = chargeable_bytes(self.state.pending_bytes());
        let Some(more) = wanted.checked_sub(charged).filter(|more| *more > 0) else {
            return true;
        };
        if forced {
            self.memory.acquire(self.address, more);
        } else if !self.memory.try_acquire(self.address, more) {
            return false;
        }
        self.charged.store(wanted, Ordering::Relaxed);
        true
    }

    fn release(&self, bytes: usize) {
        let pending = self.state.remove_pending(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        // Not at each response: bytes are often needed again right after their release.
        if charged > 0 && (pending == 0 || pending + 4 * CHARGE_STEP_BYTES < charged) {
            let _lock = self.charge_lock.lock();
            let charged = self.charged.load(Ordering::Relaxed);
            let wanted = chargeable_bytes(self.state.pending_bytes());
            if let Some(less) = charged.checked_sub(wanted) {
                self.memory.release(self.address, less);
                self.charged.store(wanted, Ordering::Relaxed);
            }
        }
        self.notify_waiters();
    }

    fn notify_waiters(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.has_waiters.load(Ordering::Relaxed) && !self.is_full() {
            self.released.notify_waiters();
        }
    }
}

/// Returns the bytes that so many pending bytes take of the process's budget.
fn chargeable_bytes(pending: usize) -> usize {
    pending
        .saturating_sub(UNCOUNTED_BYTES)
        .next_multiple_of(CHARGE_STEP_BYTES)
}

impl Drop for ResponseBudget {
    fn drop(&mut self) {
        // Every permit was dropped before, so these are bytes that were kept for the next ones.
        self.memory.release(self.address, *self.charged.get_mut());
    }
}

impl ResponsePermit {
    /// Records that a part of the response was sent.
    pub(crate) fn record_sent(&self) {
        self.budget.state.record_sent_chunk();
    }
}

impl Drop for ResponsePermit {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

impl Drop for ReadReservation<'_> {
    fn drop(&mut self) {
        self.budget
            .reserved
            .fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn test_budget(memory: &Arc<MemoryBudget>) -> Arc<ResponseBudget> {
        let address = Some("1.1.1.1".parse().unwrap());
        let account = ResponseBudget::new(Arc::default(), Arc::clone(memory), address, LIMIT);
        Arc::new(account)
    }

    #[test]
    fn pending_bytes_are_acquired_from_the_budget_and_released() {
        let memory = Arc::new(MemoryBudget::new(4 << 20));
        let budget = test_budget(&memory);
        let small = budget.acquire(UNCOUNTED_BYTES, false).unwrap();
        assert_eq!(memory.used_bytes(), 0);
        let large = budget.acquire(1 << 20, false).unwrap();
        assert_eq!((memory.used_bytes(), budget.is_full()), (1 << 20, true));
        assert!(
            budget.acquire(1 << 20, false).is_some(),
            "half of the budget"
        );
        assert!(budget.acquire((1 << 20) + 1, false).is_none());
        let forced = budget.acquire(2 << 20, true).unwrap();
        assert!(memory.used_bytes() >= 3 << 20);
        drop((small, large, forced));
        assert_eq!((memory.used_bytes(), budget.state.pending_bytes()), (0, 0));
    }

    #[test]
    fn reads_that_would_be_refused_are_retried_after_some_refusals() {
        let memory = Arc::new(MemoryBudget::new(4 << 20));
        let budget = test_budget(&memory);
        budget.record_size(LIMIT);
        assert!(budget.may_fit_budget());
        let permit = budget.acquire(2 << 20, false).unwrap();
        let refused = (0..100).take_while(|_| !budget.may_fit_budget());
        let refused = refused.count();
        assert!((10..100).contains(&refused), "{refused}");
        budget.record_size(LIMIT);
        assert!(!budget.may_fit_budget());
        drop(permit);
        assert!(budget.may_fit_budget());
    }

    #[tokio::test]
    async fn reads_wait_while_responses_are_pending() {
        let budget = test_budget(&Arc::new(MemoryBudget::new(usize::MAX)));
        let permit = budget.acquire(LIMIT, false).unwrap();
        assert!(budget.try_reserve().is_none());
        let mut reserve = Box::pin(budget.reserve());
        assert!(futures_util::poll!(&mut reserve).is_pending());
        drop(permit);
        assert!(futures_util::poll!(&mut reserve).is_ready());
    }

    #[test]
    fn reads_under_way_are_estimated_by_recent_responses() {
        let budget = test_budget(&Arc::new(MemoryBudget::new(usize::MAX)));
        let concurrent_reads = || {
            let reservations = std::iter::from_fn(|| budget.try_reserve());
            reservations.collect::<Vec<_>>().len()
        };
        assert_eq!(concurrent_reads(), LIMIT / INITIAL_RESPONSE_BYTES);
        (0..100).for_each(|_| budget.record_size(100));
        assert_eq!(concurrent_reads(), LIMIT / MIN_RESPONSE_BYTES);
        budget.record_size(LIMIT);
        assert_eq!(concurrent_reads(), 1);
        budget.record_size(usize::MAX);
        assert_eq!(
            concurrent_reads(),
            1,
            "one is always admitted if none is pending"
        );
    }
}
