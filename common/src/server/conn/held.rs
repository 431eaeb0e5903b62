//! What answers of one connection wait to be sent, and what that may be.
//!
//! A client decides how fast it reads, and over HTTP/2 also how much of each answer may be sent. So
//! what waits is counted, until the socket or HTTP/2's frames have taken it:
//!
//! - A connection over HTTP/2 works on no further read while its answers reach the limit. What reads
//!   that are under way will bring isn't known; each is taken for as large as answers on this
//!   connection have been lately.
//! - The process has a budget for all, of which an address gets half. An answer that doesn't fit is
//!   refused, unless it belongs to a request that has changed something.
//!
//! Over HTTP/1.1 one answer waits at a time. A small one isn't counted: no lock and no allocation.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::server::conn::pulse::Pulse;
use crate::server::memory::Memory;

/// Bytes that may wait on each connection without being counted in the budget of the process: the
/// number of connections bounds them.
pub(crate) const FREE_BYTES: usize = 16 << 10;
/// Bytes by which a connection takes from the budget and gives back.
const CHARGE_STEP: usize = 16 << 10;
/// What the first answers of a connection are taken for, in bytes, and what is assumed at least.
const FIRST_ANSWER_BYTES: usize = 64 << 10;
const MIN_ANSWER_BYTES: usize = 4 << 10;

/// The answers of one connection that wait.
#[derive(Debug)]
pub(crate) struct Account {
    pulse: Arc<Pulse>,
    memory: Arc<Memory>,
    address: Option<IpAddr>,
    limit: usize,
    /// Bytes taken from the budget.
    charged: AtomicUsize,
    charging: Mutex<()>,
    /// Bytes that requests under way are expected to answer.
    expected: AtomicUsize,
    /// Bytes that the next answer is taken for.
    next: AtomicUsize,
    /// Whether somebody has waited for room, ever.
    waited: AtomicBool,
    room: Arc<Notify>,
}

/// Bytes of an answer that wait, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    account: Arc<Account>,
    bytes: usize,
}

/// A request under way, for what it is expected to answer.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    account: &'a Account,
    bytes: usize,
}

impl Account {
    /// Nothing waits. `limit` bytes may on this connection; `address` is whose share of the budget they
    /// count in.
    pub(crate) fn new(
        pulse: Arc<Pulse>,
        memory: Arc<Memory>,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Self {
        Self {
            pulse,
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

    /// Whether as much waits as may, or will.
    pub(crate) fn is_full(&self) -> bool {
        self.pulse.held() + self.expected.load(Ordering::Relaxed) >= self.limit
    }

    /// Lets a read begin, if its answer could wait.
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

    /// Whether the budget has room for what a read is expected to bring. If not, it isn't worth reading
    /// only to be refused. Small ones are always tried, and after some refusals larger ones are again.
    pub(crate) fn is_worth_reading(&self) -> bool {
        let bytes = self.next.load(Ordering::Relaxed);
        let fits = bytes <= FREE_BYTES || self.memory.has_room(self.address, bytes);
        if !fits {
            self.note(0);
        }
        fits
    }

    /// Lets a read begin as soon as its answer could wait.
    pub(crate) async fn expect(&self) -> Expected<'_> {
        loop {
            let room = self.wait_for_room().notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            if let Some(expected) = self.try_expect() {
                return expected;
            }
            room.await;
        }
    }

    /// What is notified when answers have been sent. Whoever waits looks at [`Self::is_full`] behind
    /// its registration.
    pub(crate) fn wait_for_room(&self) -> &Arc<Notify> {
        self.waited.store(true, Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::SeqCst);
        &self.room
    }

    /// Counts an answer that waits, if it fits into the budget, or `must` wait anyway.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize, must: bool) -> Option<Hold> {
        let held = self.pulse.hold(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        if held > charged + FREE_BYTES && !self.charge(must) {
            self.released(bytes);
            return None;
        }
        Some(Hold {
            account: Arc::clone(self),
            bytes,
        })
    }

    /// Notes how large an answer was.
    pub(crate) fn note(&self, bytes: usize) {
        let next = self.next.load(Ordering::Relaxed);
        let noted = bytes.max(next - next / 8);
        let noted = noted.clamp(MIN_ANSWER_BYTES.min(self.limit), self.limit);
        if noted != next {
            self.next.store(noted, Ordering::Relaxed);
        }
    }

    /// Takes from the budget what waits beyond what was taken.
    fn charge(&self, must: bool) -> bool {
        let _charging = self.charging.lock();
        let charged = self.charged.load(Ordering::Relaxed);
        let wanted = chargeable(self.pulse.held());
        let Some(more) = wanted.checked_sub(charged).filter(|more| *more > 0) else {
            return true;
        };
        if must {
            self.memory.take(self.address, more);
        } else if !self.memory.try_take(self.address, more) {
            return false;
        }
        self.charged.store(wanted, Ordering::Relaxed);
        true
    }

    fn released(&self, bytes: usize) {
        let held = self.pulse.release(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        // Not at each answer: what is given back is often needed again at once.
        if charged > 0 && (held == 0 || held + 4 * CHARGE_STEP < charged) {
            let _charging = self.charging.lock();
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

/// What is taken from the budget for so many bytes that wait.
fn chargeable(held: usize) -> usize {
    held.saturating_sub(FREE_BYTES)
        .next_multiple_of(CHARGE_STEP)
}

impl Drop for Account {
    fn drop(&mut self) {
        // Every hold has gone, so this is what was left for the next ones.
        self.memory.release(self.address, *self.charged.get_mut());
    }
}

impl Hold {
    /// Some of the answer has gone.
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
    fn what_waits_is_taken_from_the_budget_and_given_back() {
        let memory = Arc::new(Memory::new(4 << 20));
        let account = account(&memory);
        let small = account.hold(FREE_BYTES, false).unwrap();
        assert_eq!(memory.taken(), 0);
        let large = account.hold(1 << 20, false).unwrap();
        assert_eq!((memory.taken(), account.is_full()), (1 << 20, true));
        assert!(account.hold(1 << 20, false).is_some(), "half of the budget");
        assert!(account.hold((1 << 20) + 1, false).is_none());
        let must = account.hold(2 << 20, true).unwrap();
        assert!(memory.taken() >= 3 << 20);
        drop((small, large, must));
        assert_eq!((memory.taken(), account.pulse.held()), (0, 0));
    }

    #[test]
    fn reads_that_would_be_refused_arent_made_until_some_were() {
        let memory = Arc::new(Memory::new(4 << 20));
        let account = account(&memory);
        account.note(LIMIT);
        assert!(account.is_worth_reading());
        let held = account.hold(2 << 20, false).unwrap();
        let refused = (0..100).take_while(|_| !account.is_worth_reading());
        let refused = refused.count();
        assert!((10..100).contains(&refused), "{refused}");
        account.note(LIMIT);
        assert!(!account.is_worth_reading());
        drop(held);
        assert!(account.is_worth_reading());
    }

    #[tokio::test]
    async fn reads_wait_while_answers_do() {
        let account = account(&Arc::new(Memory::new(usize::MAX)));
        let hold = account.hold(LIMIT, false).unwrap();
        assert!(account.try_expect().is_none());
        let mut expect = Box::pin(account.expect());
        assert!(futures_util::poll!(&mut expect).is_pending());
        drop(hold);
        assert!(futures_util::poll!(&mut expect).is_ready());
    }

    #[test]
    fn reads_under_way_are_taken_for_what_answers_were_lately() {
        let account = account(&Arc::new(Memory::new(usize::MAX)));
        let together = || {
            let under_way = std::iter::from_fn(|| account.try_expect());
            under_way.collect::<Vec<_>>().len()
        };
        assert_eq!(together(), LIMIT / FIRST_ANSWER_BYTES);
        (0..100).for_each(|_| account.note(100));
        assert_eq!(together(), LIMIT / MIN_ANSWER_BYTES);
        account.note(LIMIT);
        assert_eq!(together(), 1);
        account.note(usize::MAX);
        assert_eq!(together(), 1, "one is always let in where nothing waits");
    }
}
