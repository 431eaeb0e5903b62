//! Batches: operations on several keys of a bucket in one request, each with an outcome of its own.
//! A batch isn't atomic.
//!
//! Operations on one key are executed in the order of the batch, all others at the same time
//! (`batch_execution`). The writes of a wave go to the shard's leader in one call (`batch_writes`).
//!
//! Cancel safety: if the future is dropped, the waves that have begun end as they would have, and
//! no other one begins.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::batch_execution::{BatchStore, Execution};
use super::batch_operation::{BatchOperation, BatchOutcome, ValueBudget};
use super::batch_writes::write_all;
use super::errors::KeyError;
use super::keyspace::Keyspace;
use super::packed_write;
use super::session::SessionToken;
use super::writes::WriteResult;
use crate::meta::Bucket;
use crate::shard::KEY_METADATA_LEVEL;
use crate::types::{KeyWrite, ReadResult, WriteReceipt};

impl Keyspace {
    /// Executes the operations of a batch, and returns their outcomes in their order. Reads and
    /// touches wait for what `session` has seen.
    pub(crate) async fn execute_batch(
        &self,
        bucket: &Arc<Bucket>,
        operations: Vec<BatchOperation>,
        session: &SessionToken,
        values: &dyn ValueBudget,
    ) -> Vec<BatchOutcome> {
        let store = SessionKeys {
            keyspace: self,
            bucket,
            session,
        };
        let execution = Execution::new(&store, values, self.timeout());
        execution.execute(operations).await
    }
}

/// Keys of a bucket, as a client sees them.
struct SessionKeys<'a> {
    keyspace: &'a Keyspace,
    bucket: &'a Arc<Bucket>,
    session: &'a SessionToken,
}

impl SessionKeys<'_> {
    async fn write_one(
        &self,
        (key, write): (Bytes, KeyWrite),
        end: Instant,
    ) -> Result<WriteReceipt, KeyError> {
        let written = timeout_at(end, self.keyspace.write(self.bucket, key, write)).await;
        written.unwrap_or(Err(KeyError::UnknownOutcome))
    }
}

impl BatchStore for SessionKeys<'_> {
    fn shard_of(&self, key: &[u8]) -> u16 {
        self.keyspace.shard_of(self.bucket, key)
    }

    fn has_seen(&self, shard: u16) -> bool {
        !self.session.seen_of_shard(shard).is_empty()
    }

    async fn read(&self, key: &[u8]) -> Result<ReadResult, KeyError> {
        if self.session.is_empty() {
            return self.keyspace.get(self.bucket, key).await;
        }
        let read = self.keyspace.get_in_session(self.bucket, key, self.session);
        Box::pin(read).await
    }

    async fn await_session(&self, key: &[u8]) -> Result<(), KeyError> {
        let waited = self.keyspace.await_session(self.bucket, key, self.session);
        Box::pin(waited).await
    }

    /// Until all nodes know calls with several writes, and for a single one, each is a call of its
    /// own.
    async fn write(
        &self,
        shard: u16,
        writes: Vec<(Bytes, KeyWrite)>,
        end: Instant,
    ) -> Vec<Result<WriteReceipt, KeyError>> {
        let (keyspace, bucket) = (self.keyspace, self.bucket);
        if writes.len() < 2 || keyspace.check_level(KEY_METADATA_LEVEL).is_err() {
            let writes = writes.into_iter();
            return join_all(writes.map(|write| self.write_one(write, end))).await;
        }
        let writes = writes.into_iter();
        let writes = writes
            .map(|(key, write)| packed_write::pack(bucket, &key, write))
            .collect();
        let timeout = keyspace.timeout();
        let results = write_all(keyspace.shards(), bucket, (shard, writes), timeout, end).await;
        let results = results.into_iter();
        results
            .map(|result| result.and_then(WriteResult::into_receipt))
            .collect()
    }
}
