//! Writes of one batch to one shard, which travel to the shard's leader as one call.
//!
//! There each of them is judged by itself, all at the same time, so that they share Raft entries.
//!
//! Invariant (unknown outcome): a write is sent again only if it provably was not done. If the call
//! is lost, the outcome of all of its writes is unknown.

use std::iter::repeat_with;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, batched_reply::Kind, call, reply};
use futures_util::future::join_all;
use prost::Message;
use tokio::time::{Instant, timeout_at};

use super::errors::KeyError;
use super::operation::{ForwardRefusal, Operation, ShardError, decode_refusal, encode_refusal};
use super::shards::{Shards, no_leader};
use super::writes::{WriteKey, WriteResult, needs_metadata_level};
use crate::meta::Bucket;
use crate::shard::{KEY_METADATA_LEVEL, ShardHandle};

/// Backoff before writes are tried again that the leader has not done.
const RETRY_BACKOFF: Duration = Duration::from_millis(5);

/// Writes different keys of one bucket and one shard.
pub(super) struct WriteBatch<'a> {
    pub shards: &'a Shards,
    pub bucket: &'a Arc<Bucket>,
    pub writes: Vec<pb::Write>,
    pub timeout: Duration,
}

impl WriteBatch<'_> {
    /// Executes one of the writes.
    async fn execute_write(
        &self,
        write: &pb::Write,
        shard: &ShardHandle,
    ) -> Result<WriteResult, ShardError> {
        let write = WriteKey {
            shards: self.shards,
            bucket: self.bucket,
            write: write.clone(),
            timeout: self.timeout,
        };
        write.execute(shard).await
    }
}

impl Operation for WriteBatch<'_> {
    /// Outcome of each write, in their order.
    type Output = Vec<Result<WriteResult, ShardError>>;
    const RETRYABLE: bool = false;

    async fn execute(&self, shard: &ShardHandle) -> Result<Self::Output, ShardError> {
        if !shard.is_serving() {
            return Err(ShardError::NotLeader);
        }
        if self.writes.iter().any(needs_metadata_level) {
            // Once, and not by each of them.
            shard.raise_level(KEY_METADATA_LEVEL).await?;
        }
        let writes = self.writes.iter();
        Ok(join_all(writes.map(|write| self.execute_write(write, shard))).await)
    }

    fn to_call(&self, shard: u16) -> call::Body {
        call::Body::Batch(pb::ForwardedBatch {
            shard: u32::from(shard),
            writes: self.writes.clone(),
        })
    }

    fn encode(outcomes: Self::Output) -> reply::Body {
        let replies = outcomes.into_iter().map(|outcome| {
            let reply = match outcome {
                Ok(result) => WriteKey::encode(result),
                Err(error) => encode_refusal(error, None),
            };
            let kind = match reply {
                reply::Body::Write(write) => Some(Kind::Write(write)),
                reply::Body::Refused(refused) => Some(Kind::Refused(refused)),
                _ => None,
            };
            pb::BatchedReply { kind }
        });
        reply::Body::Batch(pb::BatchReply {
            replies: replies.collect(),
        })
    }

    fn decode(reply: reply::Body) -> Option<Self::Output> {
        let reply::Body::Batch(batch) = reply else {
            return None;
        };
        Some(batch.replies.into_iter().map(decode_outcome).collect())
    }

    fn queued_bytes(&self) -> usize {
        let writes = self.writes.iter();
        writes.map(|write| write.encoded_len() + 512).sum()
    }
}

/// Decodes the outcome of one write. One of a kind that this version doesn't know is unknown.
fn decode_outcome(reply: pb::BatchedReply) -> Result<WriteResult, ShardError> {
    let unknown = ShardError::Failed(KeyError::UnknownOutcome);
    match reply.kind {
        Some(Kind::Write(write)) => WriteKey::decode(reply::Body::Write(write)).ok_or(unknown),
        Some(Kind::Refused(refused)) => Err(match decode_refusal(refused) {
            ForwardRefusal::Redirect(_) => ShardError::NotLeader,
            ForwardRefusal::Final(error) => error.into(),
        }),
        None => Err(unknown),
    }
}

/// Executes writes of different keys of a shard at its leader, and returns their outcomes in their
/// order. Those that the leader has not done, since it isn't the leader any more, are tried again
/// until `timeout` has passed. What isn't known at `end` has an unknown outcome.
pub(super) async fn write_all(
    shards: &Shards,
    bucket: &Arc<Bucket>,
    (shard, writes): (u16, Vec<pb::Write>),
    timeout: Duration,
    end: Instant,
) -> Vec<Result<WriteResult, KeyError>> {
    let deadline = Instant::now() + timeout;
    let mut outcomes = Outcomes::new(writes.len());
    let mut batch = WriteBatch {
        shards,
        bucket,
        writes,
        timeout,
    };
    loop {
        let attempt = timeout_at(end, shards.run(shard, &batch)).await;
        let is_not_done = outcomes.record(attempt.unwrap_or(Err(KeyError::UnknownOutcome)));
        let mut is_not_done = is_not_done.into_iter();
        batch.writes.retain(|_| is_not_done.next().unwrap_or(false));
        if batch.writes.is_empty() {
            break;
        }
        if Instant::now() >= deadline {
            outcomes.fail_pending(&no_leader(shard));
            break;
        }
        tokio::time::sleep(RETRY_BACKOFF).await;
    }
    outcomes.into_results()
}

/// Outcomes of writes, by their order.
struct Outcomes {
    results: Vec<Option<Result<WriteResult, KeyError>>>,
    /// Numbers of the writes without an outcome, ascending.
    pending: Vec<usize>,
}

impl Outcomes {
    fn new(count: usize) -> Self {
        Self {
            results: repeat_with(|| None).take(count).collect(),
            pending: (0..count).collect(),
        }
    }

    /// Records the result of an attempt at all pending writes. Returns for each of them whether it
    /// is pending still: it was not done, and may be done by another node.
    fn record(
        &mut self,
        result: Result<Vec<Result<WriteResult, ShardError>>, KeyError>,
    ) -> Vec<bool> {
        let attempted = std::mem::take(&mut self.pending);
        let outcomes = match result {
            Ok(outcomes) if outcomes.len() == attempted.len() => outcomes,
            Ok(_) => fail_all(&attempted, &KeyError::UnknownOutcome),
            Err(error) => fail_all(&attempted, &error),
        };
        let mut is_not_done = Vec::with_capacity(attempted.len());
        for (index, outcome) in attempted.into_iter().zip(outcomes) {
            let result = match outcome {
                Ok(result) => Some(Ok(result)),
                Err(ShardError::Failed(error)) => Some(Err(error)),
                Err(ShardError::NotLeader | ShardError::Damaged(_)) => None,
            };
            is_not_done.push(result.is_none());
            if result.is_none() {
                self.pending.push(index);
            } else if let Some(slot) = self.results.get_mut(index) {
                *slot = result;
            }
        }
        is_not_done
    }

    fn fail_pending(&mut self, error: &KeyError) {
        let failed = fail_all(&self.pending, error);
        self.record(Ok(failed));
    }

    fn into_results(self) -> Vec<Result<WriteResult, KeyError>> {
        let results = self.results.into_iter();
        results
            .map(|result| result.unwrap_or(Err(KeyError::UnknownOutcome)))
            .collect()
    }
}

fn fail_all(writes: &[usize], error: &KeyError) -> Vec<Result<WriteResult, ShardError>> {
    let failures = writes.iter().map(|_| Err(error.duplicate().into()));
    failures.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::errors::Unavailable;
    use crate::types::{Version, WriteReceipt};

    fn done(time: u64) -> WriteResult {
        WriteResult::Done(WriteReceipt {
            version: Version { time, region: 1 },
            existed: time.is_multiple_of(2),
            expires_at: (time > 5).then_some(time),
        })
    }

    #[test]
    fn each_write_keeps_its_own_outcome_through_encoding() {
        let queue = "writes";
        let overloaded = KeyError::from(Unavailable::Overloaded { queue });
        let outcomes = vec![
            Ok(done(3)),
            Ok(done(8)),
            Ok(WriteResult::ConditionFailed),
            Ok(WriteResult::TooManyKeys(9)),
            Err(ShardError::NotLeader),
            Err(KeyError::UnknownOutcome.into()),
            Err(overloaded.into()),
        ];
        let decoded = WriteBatch::decode(WriteBatch::encode(outcomes)).unwrap();
        assert!(matches!(
            &decoded[..],
            [
                Ok(first),
                Ok(second),
                Ok(WriteResult::ConditionFailed),
                Ok(WriteResult::TooManyKeys(9)),
                Err(ShardError::NotLeader),
                Err(ShardError::Failed(KeyError::UnknownOutcome)),
                Err(ShardError::Failed(KeyError::Unavailable(Unavailable::Overloaded { .. }))),
            ] if *first == done(3) && *second == done(8)
        ));
    }

    #[test]
    fn replies_of_unknown_kinds_are_unknown_outcomes() {
        let batch = pb::BatchReply {
            replies: vec![pb::BatchedReply { kind: None }],
        };
        let decoded = WriteBatch::decode(reply::Body::Batch(batch)).unwrap();
        assert!(matches!(
            decoded[..],
            [Err(ShardError::Failed(KeyError::UnknownOutcome))]
        ));
        let other = reply::Body::Command(pb::CommandReply {});
        assert!(WriteBatch::decode(other).is_none());
    }

    #[test]
    fn only_writes_that_were_not_done_stay_pending() {
        let mut outcomes = Outcomes::new(3);
        let attempt = vec![Ok(done(1)), Err(ShardError::NotLeader), Ok(done(3))];
        assert_eq!(outcomes.record(Ok(attempt)), [false, true, false]);
        assert_eq!(outcomes.record(Ok(vec![Ok(done(2))])), [false]);
        let results = outcomes.into_results();
        let results: Vec<WriteResult> = results.into_iter().map(Result::unwrap).collect();
        assert_eq!(results, [done(1), done(2), done(3)]);
    }

    #[test]
    fn a_lost_call_and_a_reply_of_another_length_leave_all_outcomes_unknown() {
        let lost = Err(KeyError::UnknownOutcome);
        for attempt in [lost, Ok(vec![Ok(done(1))])] {
            let mut outcomes = Outcomes::new(2);
            assert_eq!(outcomes.record(attempt), [false, false]);
            let results = outcomes.into_results();
            assert!(matches!(
                results[..],
                [Err(KeyError::UnknownOutcome), Err(KeyError::UnknownOutcome)]
            ));
        }
    }

    #[test]
    fn writes_that_no_leader_does_in_time_are_unavailable() {
        let mut outcomes = Outcomes::new(1);
        outcomes.record(Ok(vec![Err(ShardError::NotLeader)]));
        outcomes.fail_pending(&no_leader(0));
        let results = outcomes.into_results();
        assert!(matches!(
            results[..],
            [Err(KeyError::Unavailable(Unavailable::NoLeader { .. }))]
        ));
    }
}
