//! Retry budget.
//!
//! Invariant: of many requests, at most the configured share is retried, in addition to a reserve:
//! when nodes fail under load, retries must not become the load that keeps them down.

use std::sync::atomic::{AtomicI64, Ordering};

/// Cost of a retry, in tokens.
const RETRY_COST: i64 = 1000;
/// Maximum number of saved tokens: the retries that are possible at once.
const MAX_TOKENS: i64 = 256 * RETRY_COST;

/// A token bucket that requests fill and retries drain.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    tokens: AtomicI64,
    deposit: i64,
}

impl RetryBudget {
    /// Creates a budget that allows to retry `percent` of all requests. It starts full, unless that
    /// is 0.
    pub(crate) fn new(percent: u32) -> Self {
        let full = if percent == 0 { 0 } else { MAX_TOKENS };
        Self {
            tokens: AtomicI64::new(full),
            deposit: i64::from(percent) * RETRY_COST / 100,
        }
    }

    /// Adds the tokens of a new request.
    pub(crate) fn deposit(&self) {
        self.add(self.deposit);
    }

    /// Adds the tokens of a period: with few requests, some may be retried, too.
    pub(crate) fn refill(&self) {
        if self.deposit > 0 {
            self.add(RETRY_COST);
        }
    }

    fn add(&self, tokens: i64) {
        // Usually the bucket is full, and then nothing is written.
        if self.tokens.load(Ordering::Relaxed) < MAX_TOKENS {
            self.tokens.fetch_add(tokens, Ordering::Relaxed);
        }
    }

    /// Withdraws the cost of a retry. Returns whether there were enough tokens.
    pub(crate) fn withdraw(&self) -> bool {
        let pay = |tokens: i64| (tokens >= RETRY_COST).then_some(tokens - RETRY_COST);
        let paid = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
        paid.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the retries until the budget is empty.
    fn drain(budget: &RetryBudget) -> i64 {
        (0..).take_while(|_| budget.withdraw()).count() as i64
    }

    #[test]
    fn a_share_is_retried_in_addition_to_the_reserve() {
        let budget = RetryBudget::new(20);
        assert_eq!(drain(&budget), MAX_TOKENS / RETRY_COST);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget), 200);
        budget.refill();
        assert_eq!(drain(&budget), 1);
    }

    #[test]
    fn saved_tokens_are_bounded_by_the_reserve() {
        let budget = RetryBudget::new(100);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget), MAX_TOKENS / RETRY_COST);
    }

    #[test]
    fn a_budget_of_zero_allows_no_retry() {
        let budget = RetryBudget::new(0);
        (0..1000).for_each(|_| budget.deposit());
        budget.refill();
        assert_eq!(drain(&budget), 0);
    }
}
