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

use crate::server::conn::pulse::Pulse;
use crate::server::memory::Memory;

/// Pending bytes of each connection that aren't counted in the budget of the process: the number of
/// connections bounds them.
pub(crate) const FREE_BYTES: usize = 16 << 10;
/// Granularity in which a connection acquires bytes from the process's budget and releases them.
const CHARGE_STEP: usize = 16 << 10;
/// Initial and minimum estimate of the size of a connection's responses.
const FIRST_ANSWER_BYTES: usize = 64 << 10;
const MIN_ANSWER_BYTES: usize = 4 << 10;

/// Budget of the pending responses of one connection.
#[derive(Debug)]
pub(crate) struct Account {
    pulse: Arc<Pulse>,
    memory: Arc<Memory>,
    address: Option<IpAddr>,
    limit: usize,
    /// Bytes acquired from the process's budget.
    charged: AtomicUsize,
    charging: Mutex<()>,
    /// Estimated bytes of the responses to reads under way.
    expected: AtomicUsize,
    /// Estimated bytes of the next response.
    next: AtomicUsize,
    /// Set once a task has waited for a release.
    waited: AtomicBool,
    room: Arc<Notify>,
}

/// Pending bytes of a response, until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    account: Arc<Account>,
    bytes: usize,
}

/// Reservation of a read under way for the estimated size of its response.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    account: &'a Account,
    bytes: usize,
}

impl Account {
    /// Creates a budget of `limit` bytes for a connection, which also count in the share that
    /// `address` has of the process's budget.
    pub(crate) fn new(
        state: Arc<Pulse>,
        memory: Arc<Memory>,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Self {
        Self {
            pulse: state,
            memory,
            address,
            limit,
            charged: AtomicUsize::new(0),
            charging: Mutex::default(),
            expected: AtomicUsize::new(0),
            next: AtomicUsize::new(FIRST_ANSWER_BYTES.min(limit)),
            waited: AtomicBool::new(false),
            room: Arc::default(),
        }
    }

    /// Returns whether pending responses, with those to reads under way, reach the limit.
    pub(crate) fn is_full(&self) -> bool {
        self.pulse.held() + self.expected.load(Ordering::Relaxed) >= self.limit
    }

    /// Reserves bytes for the response to a read. `None` if the budget is full.
    pub(crate) fn try_expect(&self) -> Option<Expected<'_>> {
        if self.is_full() {
            return None;
        }
        let bytes = self.next.load(Ordering::Relaxed);
        self.expected.fetch_add(bytes, Ordering::Relaxed);
        Some(Expected {
            account: self,
            bytes,
        })
    }

    /// Returns whether the process's budget has capacity for the estimated response to a read. If
    /// not, the read isn't made, since its response would be refused. Small ones are always made,
    /// and after some refusals larger ones are made again, since each refusal lowers the estimate.
    pub(crate) fn is_worth_reading(&self) -> bool {
        let bytes = self.next.load(Ordering::Relaxed);
        let fits = bytes <= FREE_BYTES || self.memory.has_room(self.address, bytes);
        if !fits {
            self.note(0);
        }
        fits
    }

    /// Reserves bytes for the response to a read, as soon as the budget isn't full.
    pub(crate) async fn expect(&self) -> Expected<'_> {
        loop {
            let released = self.wait_for_room().notified();
            let mut released = std::pin::pin!(released);
            released.as_mut().enable();
            if let Some(expected) = self.try_expect() {
                return expected;
            }
            released.await;
        }
    }

    /// Returns the notification of releases. A waiter has to check [`Self::is_full`] after it has
    /// registered.
    pub(crate) fn wait_for_room(&self) -> &Arc<Notify> {
        self.waited.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        &self.room
    }

    /// Counts a pending response, if it fits into the process's budget, or is `forced`.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize, forced: bool) -> Option<Hold> {
        let pending = self.pulse.hold(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        if pending > charged + FREE_BYTES && !self.charge(forced) {
            self.released(bytes);
            return None;
        }
        Some(Hold {
            account: Arc::clone(self),
            bytes,
        })
    }

    /// Records the size of a response, for the estimate: it rises at once, and falls by an eighth.
    pub(crate) fn note(&self, bytes: usize) {
        let next = self.next.load(Ordering::Relaxed);
        let estimate = bytes.max(next - next / 8);
        let estimate = estimate.clamp(MIN_ANSWER_BYTES.min(self.limit), self.limit);
        if estimate != next {
            self.next.store(estimate, Ordering::Relaxed);
        }
    }

    /// Acquires from the process's budget what is pending beyond the bytes acquired before.
    fn charge(&self, forced: bool) -> bool {
        let _lock = self.charging.lock();
        let charged = self.charged.load(Ordering::Relaxed);
        let wanted = chargeable(self.pulse.held());
        let Some(more) = wanted.checked_sub(charged).filter(|more| *more > 0) else {
            return true;
        };
        if forced {
            self.memory.take(self.address, more);
        } else if !self.memory.try_take(self.address, more) {
            return false;
        }
        self.charged.store(wanted, Ordering::Relaxed);
        true
    }

    fn released(&self, bytes: usize) {
        let pending = self.pulse.release(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        // Not at each response: bytes are often needed again right after their release.
        if charged > 0 && (pending == 0 || pending + 4 * CHARGE_STEP < charged) {
            let _lock = self.charging.lock();
            let charged = self.charged.load(Ordering::Relaxed);
            let wanted = chargeable(self.pulse.held());
            if let Some(less) = charged.checked_sub(wanted) {
                self.memory.release(self.address, less);
                self.charged.store(wanted, Ordering::Relaxed);
            }
        }
        self.notify();
    }

    fn notify(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.waited.load(Ordering::Relaxed) && !self.is_full() {
            self.room.notify_waiters();
        }
    }
}

/// Returns the bytes that so many pending bytes take of the process's budget.
fn chargeable(pending: usize) -> usize {
    pending
        .saturating_sub(FREE_BYTES)
        .next_multiple_of(CHARGE_STEP)
}

impl Drop for Account {
    fn drop(&mut self) {
        // Every permit was dropped before, so these are bytes that were kept for the next ones.
        self.memory.release(self.address, *self.charged.get_mut());
    }
}

impl Hold {
    /// Records that a part of the response was sent.
    pub(crate) fn went(&self) {
        self.account.pulse.answer_went();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.account.released(self.bytes);
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.account
            .expected
            .fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn account(memory: &Arc<Memory>) -> Arc<Account> {
        let address = Some("1.1.1.1".parse().unwrap());
        let account = Account::new(Arc::default(), Arc::clone(memory), address, LIMIT);
        Arc::new(account)
    }

    #[test]
    fn pending_bytes_are_acquired_from_the_budget_and_released() {
        let memory = Arc::new(Memory::new(4 << 20));
        let budget = account(&memory);
        let small = budget.hold(FREE_BYTES, false).unwrap();
        assert_eq!(memory.taken(), 0);
        let large = budget.hold(1 << 20, false).unwrap();
        assert_eq!((memory.taken(), budget.is_full()), (1 << 20, true));
        assert!(budget.hold(1 << 20, false).is_some(), "half of the budget");
        assert!(budget.hold((1 << 20) + 1, false).is_none());
        let forced = budget.hold(2 << 20, true).unwrap();
        assert!(memory.taken() >= 3 << 20);
        drop((small, large, forced));
        assert_eq!((memory.taken(), budget.pulse.held()), (0, 0));
    }

    #[test]
    fn reads_that_would_be_refused_are_retried_after_some_refusals() {
        let memory = Arc::new(Memory::new(4 << 20));
        let budget = account(&memory);
        budget.note(LIMIT);
        assert!(budget.is_worth_reading());
        let permit = budget.hold(2 << 20, false).unwrap();
        let refused = (0..100).take_while(|_| !budget.is_worth_reading());
        let refused = refused.count();
        assert!((10..100).contains(&refused), "{refused}");
        budget.note(LIMIT);
        assert!(!budget.is_worth_reading());
        drop(permit);
        assert!(budget.is_worth_reading());
    }

    #[tokio::test]
    async fn reads_wait_while_responses_are_pending() {
        let budget = account(&Arc::new(Memory::new(usize::MAX)));
        let permit = budget.hold(LIMIT, false).unwrap();
        assert!(budget.try_expect().is_none());
        let mut reserve = Box::pin(budget.expect());
        assert!(futures_util::poll!(&mut reserve).is_pending());
        drop(permit);
        assert!(futures_util::poll!(&mut reserve).is_ready());
    }

    #[test]
    fn reads_under_way_are_estimated_by_recent_responses() {
        let budget = account(&Arc::new(Memory::new(usize::MAX)));
        let concurrent_reads = || {
            let reservations = std::iter::from_fn(|| budget.try_expect());
            reservations.collect::<Vec<_>>().len()
        };
        assert_eq!(concurrent_reads(), LIMIT / FIRST_ANSWER_BYTES);
        (0..100).for_each(|_| budget.note(100));
        assert_eq!(concurrent_reads(), LIMIT / MIN_ANSWER_BYTES);
        budget.note(LIMIT);
        assert_eq!(concurrent_reads(), 1);
        budget.note(usize::MAX);
        assert_eq!(
            concurrent_reads(),
            1,
            "one is always admitted if none is pending"
        );
    }
}
