//! Permits of exports and of imports: a number of them for each node, of which one account gets half
//! at most. So an account whose transfers take for ever doesn't block those of others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::service::AccountId;

/// Permits of one kind of transfers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TransferPermits {
    semaphore: Arc<Semaphore>,
    limit: usize,
    /// Number of permits that each account has, if it has one.
    held: Arc<Mutex<HashMap<AccountId, usize>>>,
}

/// Permit of one transfer, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct TransferPermit {
    account: AccountId,
    held: Arc<Mutex<HashMap<AccountId, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl TransferPermits {
    /// Creates so many permits.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit,
            held: Arc::default(),
        }
    }

    /// Takes a permit for an account; `None` if there is none for it now.
    pub(crate) fn try_acquire(&self, account: AccountId) -> Option<TransferPermit> {
        let mut held = self.held.lock();
        let count = held.get(&account).copied().unwrap_or(0);
        if count >= (self.limit / 2).max(1) {
            return None;
        }
        let permit = self.semaphore.clone().try_acquire_owned().ok()?;
        held.insert(account, count + 1);
        drop(held);
        Some(TransferPermit {
            account,
            held: self.held.clone(),
            _permit: permit,
        })
    }

    /// Returns how many permits are taken.
    pub(crate) fn taken(&self) -> usize {
        self.limit
            .saturating_sub(self.semaphore.available_permits())
    }
}

impl Drop for TransferPermit {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        match held.get_mut(&self.account) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => {
                held.remove(&self.account);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: AccountId = AccountId([1; 32]);
    const TWO: AccountId = AccountId([2; 32]);
    const THREE: AccountId = AccountId([3; 32]);

    #[test]
    fn one_account_gets_half_of_the_permits() {
        let permits = TransferPermits::new(4);
        let of_one: Vec<_> = (0..2).map(|_| permits.try_acquire(ONE).unwrap()).collect();
        assert!(permits.try_acquire(ONE).is_none());
        let of_two = permits.try_acquire(TWO).unwrap();
        let of_three = permits.try_acquire(THREE).unwrap();
        assert_eq!(permits.taken(), 4);
        assert!(permits.try_acquire(TWO).is_none());
        drop(of_three);
        assert!(permits.try_acquire(ONE).is_none());
        drop((of_one, of_two));
        assert_eq!(permits.taken(), 0);
        assert!(permits.held.lock().is_empty());
        assert!(permits.try_acquire(ONE).is_some());
    }

    #[test]
    fn the_only_permit_is_for_everybody() {
        let permits = TransferPermits::new(1);
        let permit = permits.try_acquire(ONE).unwrap();
        assert!(permits.try_acquire(TWO).is_none());
        drop(permit);
        assert!(permits.try_acquire(TWO).is_some());
    }
}
