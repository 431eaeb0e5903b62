//! Execution of a batch: order, deadlines, and what one operation's failure means for later ones.
//!
//! Each shard executes its operations in waves (`batch_waves`), and all shards work at the same
//! time. Operations begin within two timeouts of a write, and all end within three, whatever they
//! wait for: a router waits as long.
//!
//! Invariant (order): once a write of a key has an unknown outcome, no later operation on that key
//! is executed, since the write may still be done after it.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::iter::repeat_with;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::batch_operation::{BatchOperation, BatchOutcome, ValueAdmission, ValueBudget};
use super::batch_waves::{KeyAccess, split_into_waves};
use super::errors::{KeyError, Unavailable};
use crate::types::{KeyWrite, Precondition, ReadResult, StoredValue, WriteReceipt};

/// Maximum number of reads of one batch that are under way.
const MAX_CONCURRENT_READS: usize = 16;
/// Time within which operations begin, in timeouts of a write. The last ones have one more.
const BEGIN_TIMEOUT_FACTOR: u32 = 2;

/// Keys of one bucket, as a client's session sees them.
pub(super) trait BatchStore: Sync {
    /// Returns the number of a key's shard.
    fn shard_of(&self, key: &[u8]) -> u16;

    /// Returns whether the client has seen something of a shard, which that may lack.
    fn has_seen(&self, shard: u16) -> bool;

    /// Reads a key once its shard has all that the client has seen.
    fn read(&self, key: &[u8]) -> impl Future<Output = Result<ReadResult, KeyError>> + Send;

    /// Waits until a key's shard has all that the client has seen.
    fn await_session(&self, key: &[u8]) -> impl Future<Output = Result<(), KeyError>> + Send;

    /// Writes different keys of a shard, and returns their outcomes in their order. What isn't
    /// known at `end` has an unknown outcome.
    fn write(
        &self,
        shard: u16,
        writes: Vec<(Bytes, KeyWrite)>,
        end: Instant,
    ) -> impl Future<Output = Vec<Result<WriteReceipt, KeyError>>> + Send;
}

/// A part of a batch, with its position in it.
type Indexed<T> = (usize, T);
/// A write, with its key.
type KeyedWrite = (Bytes, KeyWrite);

/// Execution of one batch.
pub(super) struct Execution<'a, S> {
    store: &'a S,
    values: &'a dyn ValueBudget,
    /// Set once a value was too large for the answer: further ones aren't read.
    is_answer_full: AtomicBool,
    read_permits: Semaphore,
    begin_deadline: Instant,
    end_deadline: Instant,
}

impl<'a, S: BatchStore> Execution<'a, S> {
    /// Prepares the execution of a batch. `timeout` is that of a write.
    pub(super) fn new(store: &'a S, values: &'a dyn ValueBudget, timeout: Duration) -> Self {
        let begin_deadline = Instant::now() + BEGIN_TIMEOUT_FACTOR * timeout;
        Self {
            store,
            values,
            is_answer_full: AtomicBool::new(false),
            read_permits: Semaphore::new(MAX_CONCURRENT_READS),
            begin_deadline,
            end_deadline: begin_deadline + timeout,
        }
    }

    /// Executes operations, and returns their outcomes in their order.
    pub(super) async fn execute(&self, operations: Vec<BatchOperation>) -> Vec<BatchOutcome> {
        let count = operations.len();
        let mut by_shard = BTreeMap::<u16, Vec<Indexed<BatchOperation>>>::new();
        for (index, operation) in operations.into_iter().enumerate() {
            let shard = self.store.shard_of(operation.key());
            by_shard.entry(shard).or_default().push((index, operation));
        }
        let shards = by_shard.into_iter();
        let executed = shards.map(|(shard, operations)| self.execute_shard(shard, operations));
        let executed = join_all(executed).await;
        let mut outcomes: Vec<Option<BatchOutcome>> = repeat_with(|| None).take(count).collect();
        for (index, outcome) in executed.into_iter().flatten() {
            if let Some(slot) = outcomes.get_mut(index) {
                *slot = Some(outcome);
            }
        }
        let unknown = || BatchOutcome::Failed(KeyError::UnknownOutcome);
        let outcomes = outcomes.into_iter();
        outcomes
            .map(|outcome| outcome.unwrap_or_else(unknown))
            .collect()
    }

    /// Executes the operations on one shard.
    async fn execute_shard(
        &self,
        shard: u16,
        operations: Vec<Indexed<BatchOperation>>,
    ) -> Vec<Indexed<BatchOutcome>> {
        let mut outcomes = Vec::with_capacity(operations.len());
        let unavailable = OnceLock::<Unavailable>::new();
        let mut uncertain_keys = HashSet::<Bytes>::new();
        for wave in split_into_waves(operations, access) {
            let is_late = self.is_late();
            let (mut gets, mut writes) = (Vec::new(), Vec::new());
            for (index, operation) in wave {
                if uncertain_keys.contains(operation.key()) {
                    outcomes.push((index, BatchOutcome::AfterUnknownOutcome));
                    continue;
                }
                if is_late {
                    outcomes.push((index, not_done()));
                    continue;
                }
                match operation {
                    BatchOperation::Get { key, precondition } => {
                        gets.push((index, (key, precondition)));
                    }
                    BatchOperation::Write { key, write } => writes.push((index, (key, write))),
                }
            }
            let read = self.read_all(gets, &unavailable);
            let written = self.write_all(shard, writes, &unavailable, &mut uncertain_keys);
            let (read, written) = join(read, written).await;
            outcomes.extend(read);
            outcomes.extend(written);
        }
        outcomes
    }

    /// Reads keys of a shard, unless it is `unavailable`, which is set once a read has waited in
    /// vain: the next ones would do so, too.
    async fn read_all(
        &self,
        gets: Vec<Indexed<(Bytes, Precondition)>>,
        unavailable: &OnceLock<Unavailable>,
    ) -> Vec<Indexed<BatchOutcome>> {
        let gets = gets.into_iter();
        join_all(gets.map(|get| self.read_indexed(get, unavailable))).await
    }

    async fn read_indexed(
        &self,
        (index, (key, precondition)): Indexed<(Bytes, Precondition)>,
        unavailable: &OnceLock<Unavailable>,
    ) -> Indexed<BatchOutcome> {
        let outcome = self.read(&key, &precondition, unavailable).await;
        (index, outcome)
    }

    async fn read(
        &self,
        key: &[u8],
        precondition: &Precondition,
        unavailable: &OnceLock<Unavailable>,
    ) -> BatchOutcome {
        // Fails only if the semaphore was closed, which it never is.
        let _permit = self.read_permits.acquire().await.ok();
        if self.is_answer_full.load(Ordering::Relaxed) {
            return BatchOutcome::TooLarge;
        }
        if let Some(reason) = unavailable.get() {
            return BatchOutcome::Failed(reason.clone().into());
        }
        if self.is_late() {
            return not_done();
        }
        match timeout_at(self.end_deadline, self.store.read(key)).await {
            Ok(Ok(ReadResult::Live(value))) => self.admit(key, value, precondition),
            Ok(Ok(ReadResult::Deleted(version))) => BatchOutcome::Deleted(version),
            Ok(Ok(ReadResult::Missing)) => BatchOutcome::Missing,
            Ok(Err(error)) => {
                remember(unavailable, &error);
                BatchOutcome::Failed(error)
            }
            Err(_) => not_done(),
        }
    }

    /// Judges the condition of a read, and keeps the value if there is memory for it.
    fn admit(&self, key: &[u8], value: StoredValue, precondition: &Precondition) -> BatchOutcome {
        let version = value.version;
        match precondition {
            Precondition::Absent => return BatchOutcome::NotModified(version),
            Precondition::NotVersions(any) if any.contains(&version) => {
                return BatchOutcome::NotModified(version);
            }
            Precondition::Versions(any) if !any.contains(&version) => {
                return BatchOutcome::ConditionFailed(version);
            }
            Precondition::None
            | Precondition::Exists
            | Precondition::Versions(_)
            | Precondition::NotVersions(_) => {}
        }
        match self.values.admit(key, &value) {
            ValueAdmission::Admitted => BatchOutcome::Value(value),
            ValueAdmission::TooLarge => {
                self.is_answer_full.store(true, Ordering::Relaxed);
                BatchOutcome::TooLarge
            }
            ValueAdmission::Overloaded => {
                let queue = "answers";
                BatchOutcome::Failed(Unavailable::Overloaded { queue }.into())
            }
        }
    }

    /// Executes writes of different keys of a shard. Those of unknown outcome are added to
    /// `uncertain_keys`.
    async fn write_all(
        &self,
        shard: u16,
        writes: Vec<Indexed<KeyedWrite>>,
        unavailable: &OnceLock<Unavailable>,
        uncertain_keys: &mut HashSet<Bytes>,
    ) -> Vec<Indexed<BatchOutcome>> {
        let waited = self.refuse_unseen_touches(shard, writes, unavailable);
        let (writes, mut outcomes) = waited.await;
        if self.is_late() {
            let indexes = writes.into_iter().map(|(index, _)| index);
            outcomes.extend(indexes.map(|index| (index, not_done())));
            return outcomes;
        }
        let positions = writes.iter().map(|(index, (key, _))| (*index, key.clone()));
        let positions: Vec<(usize, Bytes)> = positions.collect();
        let writes = writes.into_iter().map(|(_, write)| write).collect();
        let results = self.store.write(shard, writes, self.end_deadline).await;
        for ((index, key), result) in positions.into_iter().zip(results) {
            let outcome = match result {
                Ok(receipt) => BatchOutcome::Written(receipt),
                Err(error) => {
                    if matches!(error, KeyError::UnknownOutcome) {
                        uncertain_keys.insert(key);
                    }
                    BatchOutcome::Failed(error)
                }
            };
            outcomes.push((index, outcome));
        }
        outcomes
    }

    /// Lets touches wait until the shard has what the client has seen (see
    /// `Keyspace::await_session`). Returns the writes that may be done, and the outcomes of the
    /// touches that may not.
    async fn refuse_unseen_touches(
        &self,
        shard: u16,
        writes: Vec<Indexed<KeyedWrite>>,
        unavailable: &OnceLock<Unavailable>,
    ) -> (Vec<Indexed<KeyedWrite>>, Vec<Indexed<BatchOutcome>>) {
        let is_touch = |write: &Indexed<KeyedWrite>| matches!(write.1.1, KeyWrite::Touch(_));
        let first_touch = writes.iter().find(|write| is_touch(write));
        let Some((_, (key, _))) = first_touch.filter(|_| self.store.has_seen(shard)) else {
            return (writes, Vec::new());
        };
        let waited = self.await_session(key, unavailable).await;
        let Err(error) = waited else {
            return (writes, Vec::new());
        };
        let (touches, others): (Vec<_>, Vec<_>) = writes.into_iter().partition(is_touch);
        let refused = |index| (index, BatchOutcome::Failed(error.duplicate()));
        let refused = touches.into_iter().map(|(index, _)| refused(index));
        (others, refused.collect())
    }

    /// Waits until a key's shard has what the client has seen, as long as operations may begin.
    async fn await_session(
        &self,
        key: &[u8],
        unavailable: &OnceLock<Unavailable>,
    ) -> Result<(), KeyError> {
        if let Some(reason) = unavailable.get() {
            return Err(reason.clone().into());
        }
        let waited = timeout_at(self.begin_deadline, self.store.await_session(key)).await;
        let waited = waited.unwrap_or_else(|_| Err(overdue().into()));
        waited.inspect_err(|error| remember(unavailable, error))
    }

    /// Returns whether no operation may begin any more.
    fn is_late(&self) -> bool {
        Instant::now() >= self.begin_deadline
    }
}

/// Keeps the reason of a failed read, if the shard's other reads would wait for the same.
fn remember(unavailable: &OnceLock<Unavailable>, error: &KeyError) {
    if let KeyError::Unavailable(reason) = error
        && matches!(reason, Unavailable::Behind | Unavailable::NoLeader { .. })
    {
        unavailable.get_or_init(|| reason.clone());
    }
}

/// Outcome of an operation for which there was no time.
fn not_done() -> BatchOutcome {
    BatchOutcome::Failed(overdue().into())
}

fn overdue() -> Unavailable {
    let queue = "operations of a batch";
    Unavailable::Overloaded { queue }
}

fn access(operation: &Indexed<BatchOperation>) -> KeyAccess<'_> {
    KeyAccess {
        key: operation.1.key(),
        is_write: operation.1.is_write(),
    }
}

#[cfg(test)]
#[path = "batch_execution_tests.rs"]
mod tests;
