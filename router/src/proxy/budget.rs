//! How much may be sent again.
//!
//! Invariant: of many requests, at most the given share is sent twice, beside a reserve: when nodes
//! fail under load, what is sent again must not become the load that keeps them down.

use std::sync::atomic::{AtomicI64, Ordering};

/// What sending once more costs.
const COST: i64 = 1000;
/// The most that is saved up: so many requests may be sent again at once.
const RESERVE: i64 = 256 * COST;

/// A token bucket, filled by requests.
#[derive(Debug)]
pub struct Budget {
    tokens: AtomicI64,
    deposit: i64,
}

impl Budget {
    /// Of 100 requests, `percent` may be sent again. It begins full, if it isn't 0.
    pub fn new(percent: u32) -> Self {
        let full = if percent == 0 { 0 } else { RESERVE };
        Self {
            tokens: AtomicI64::new(full),
            deposit: i64::from(percent) * COST / 100,
        }
    }

    /// A request has come.
    pub fn deposit(&self) {
        self.add(self.deposit);
    }

    /// Time has passed: where few requests come, some may be sent again, too.
    pub fn refill(&self) {
        if self.deposit > 0 {
            self.add(COST);
        }
    }

    fn add(&self, tokens: i64) {
        // Full is the usual state, and then nothing is written.
        if self.tokens.load(Ordering::Relaxed) < RESERVE {
            self.tokens.fetch_add(tokens, Ordering::Relaxed);
        }
    }

    /// Whether a request may be sent once more; if so, that is paid.
    pub fn withdraw(&self) -> bool {
        let pay = |tokens: i64| (tokens >= COST).then_some(tokens - COST);
        let paid = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
        paid.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it pays in a row.
    fn drain(budget: &Budget) -> i64 {
        (0..).take_while(|_| budget.withdraw()).count() as i64
    }

    #[test]
    fn beside_a_reserve_a_share_is_sent_again() {
        let budget = Budget::new(20);
        assert_eq!(drain(&budget), RESERVE / COST);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget), 200);
        budget.refill();
        assert_eq!(drain(&budget), 1);
    }

    #[test]
    fn no_more_than_the_reserve_is_saved() {
        let budget = Budget::new(100);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget), RESERVE / COST);
    }

    #[test]
    fn none_is_none() {
        let budget = Budget::new(0);
        (0..1000).for_each(|_| budget.deposit());
        budget.refill();
        assert_eq!(drain(&budget), 0);
    }
}
