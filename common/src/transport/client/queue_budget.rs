//! Budget of bytes for the calls in queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::settings::RpcClientSettings;

/// Bytes of calls that may wait to be sent, for one client or shared by several.
#[derive(Clone, Debug)]
pub struct CallQueueBudget(Arc<AtomicUsize>);

impl CallQueueBudget {
    /// A budget of the size that `settings` give.
    pub fn from_settings(settings: &RpcClientSettings) -> Self {
        Self(Arc::new(AtomicUsize::new(settings.max_queue_bytes)))
    }
}

/// Bytes that a queued call takes of its client's budget, until it is dropped.
pub(super) struct CallQueuePermit {
    budget: CallQueueBudget,
    bytes: usize,
}

impl CallQueuePermit {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the bytes of a call; `None` if the budget has too few.
    pub(super) fn try_acquire(budget: &CallQueueBudget, bytes: usize) -> Option<Self> {
        let less = |available: usize| available.checked_sub(bytes);
        budget
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .ok()?;
        let budget = budget.clone();
        Some(Self { budget, bytes })
    }
}

impl Drop for CallQueuePermit {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::AcqRel);
    }
}
