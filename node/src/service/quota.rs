//! Enforces a plan's number of keys: no write is refused below it, and it is never exceeded.
//!
//! A write of a key that may be new needs a reservation from a quota lease, which the leader of the
//! key's shard holds (see `quota::KeyQuota`). When the lease is used up, a key that exists is
//! written without a reservation, and the state machine refuses that if the key was deleted by
//! then. For others the leader of the bucket's home shard is asked for another lease: it asks all
//! nodes for the quota that they hold, counts the keys, and grants a part of what is left. Before
//! any write is refused, unused quota is recalled.
//!
//! Invariant: no quota is granted twice:
//! - grants of a bucket are made one at a time, at the node that leads its home shard;
//! - a grant that arrives later than [`GRANT_TIMEOUT`] after it was made is dropped by its
//!   receiver: by then, another node may lead the home shard, which knows nothing of the grant. No
//!   leader lease is that short, and leadership that was transferred begins with a delay of that
//!   length. The time that the survey before a grant took doesn't count: a node that hangs delays
//!   that;
//! - a grant that was sent is counted until its receiver has reported it, or was asked so much
//!   later that it would have. So a grant to a node that has died counts for a moment only;
//! - quota can be used only in terms that its node led when it requested it, and the leaders of all
//!   shards are asked what they hold. So a node that can't be asked, and leads no shard of those
//!   that were counted, holds nothing that will ever be used: not even when it can be reached and
//!   leads again. Each write is proposed for the term in which its quota was reserved
//!   (`shard/proposer`).
//!
//! A write is refused only when the counted keys have reached the limit. As long as quota is held,
//! or may be held, writes of new keys wait, and fail with 503 at their deadline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::future::{join_all, try_join_all};

use super::errors::{KeyError, Unavailable};
use super::operation::{Operation, ShardError};
use super::shards::Shards;
use crate::meta::Bucket;
use crate::quota::{
    GRANT_TIMEOUT, GrantDecision, QuotaDemand, QuotaGrant, QuotaRequest, Reservation, UsageSurvey,
};
use crate::raft::NodeId;
use crate::rpc::{Peers, StreamKind};
use crate::shard::ShardHandle;
use crate::types::ReadResult;

/// Timeout of a query for the quota that a node holds.
const QUERY_TIMEOUT: Duration = Duration::from_millis(500);

/// Reservation for a new key; without one, only a key that exists may be written.
pub(super) type OptionalReservation = Option<Reservation>;

/// Reserves quota for `key` when the lease at hand is used up. Returns `None` if the key exists.
pub(super) async fn reserve(
    shards: &Shards,
    shard: &ShardHandle,
    bucket: &Arc<Bucket>,
    key: &[u8],
    timeout: Duration,
) -> Result<OptionalReservation, ShardError> {
    let exists = async || -> Result<bool, ShardError> {
        let result = shard.get(bucket.id.as_bytes(), key).await?;
        Ok(matches!(result, ReadResult::Live(_)))
    };
    let reserve = async {
        // A key that exists needs no quota, and need not wait for other nodes: after a failover,
        // for example, when the new leader has no lease yet.
        if exists().await? {
            return Ok(None);
        }
        loop {
            if !shard.is_serving() {
                return Err(ShardError::NotLeader);
            }
            match request_lease(shards, shard, bucket).await? {
                QuotaDemand::Granted => {}
                QuotaDemand::Wait | QuotaDemand::Full if exists().await? => return Ok(None),
                QuotaDemand::Wait => wait_for_release(bucket).await,
                QuotaDemand::Full => {
                    let limit = bucket.limits.keys;
                    return Err(KeyError::TooManyKeys { limit }.into());
                }
            }
            if let Some(reservation) = bucket.usage.key_quota.reserve(shard.led_since()) {
                return Ok(Some(reservation));
            }
        }
    };
    let queue = "writes near the bucket's limit";
    let overloaded = KeyError::from(Unavailable::Overloaded { queue });
    let result = tokio::time::timeout(timeout, reserve).await;
    result.unwrap_or(Err(overloaded.into()))
}

/// Waits until a write releases its reservation, for 5 ms at most: one may have been released just
/// before.
async fn wait_for_release(bucket: &Bucket) {
    let released = bucket.usage.key_quota.released();
    let _ = tokio::time::timeout(Duration::from_millis(5), released).await;
}

/// Requests another lease for `shard`, one at a time for each bucket on this node.
async fn request_lease(
    shards: &Shards,
    shard: &ShardHandle,
    bucket: &Arc<Bucket>,
) -> Result<QuotaDemand, KeyError> {
    let quota = &bucket.usage.key_quota;
    let _exclusive = quota.refill_lock.lock().await;
    if quota.has_quota(shard.led_since()) {
        return Ok(QuotaDemand::Granted);
    }
    let request = QuotaRequest {
        requested_at: Instant::now(),
        limit: quota.limit(),
    };
    let call = RequestQuotaLease {
        shards,
        bucket,
        from: shards.peers().me(),
    };
    let answer = shards.run(shards.home_shard(&bucket.id), &call).await?;
    match answer {
        // The grant was made no earlier than `delay` after it was requested.
        QuotaAnswer::Granted(grant, delay) if quota.accept_grant(grant, request, delay) => {
            Ok(QuotaDemand::Granted)
        }
        // The same quota may be granted to another node already.
        QuotaAnswer::Granted(..) => Ok(QuotaDemand::Wait),
        QuotaAnswer::Wait => Ok(QuotaDemand::Wait),
        QuotaAnswer::Full => Ok(QuotaDemand::Full),
    }
}

/// Answer of the leader of the home shard to a request for a quota lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaAnswer {
    /// A grant, and the minimum time that passed until it was made.
    Granted(QuotaGrant, Duration),
    /// All quota is held by nodes: some may be released soon.
    Wait,
    /// The bucket has as many keys as its plan allows.
    Full,
}

/// Requests a quota lease for a node from the leader of the bucket's home shard.
pub(super) struct RequestQuotaLease<'a> {
    pub shards: &'a Shards,
    pub bucket: &'a Arc<Bucket>,
    pub from: NodeId,
}

impl Operation for RequestQuotaLease<'_> {
    type Output = QuotaAnswer;
    // Quota that was granted and never arrives is free again with the next request.
    const RETRYABLE: bool = true;

    async fn execute(&self, home: &ShardHandle) -> Result<QuotaAnswer, ShardError> {
        let requested_at = Instant::now();
        if home.group().led_for() < GRANT_TIMEOUT {
            // Grants of the previous leader may still be on their way.
            return Ok(QuotaAnswer::Wait);
        }
        let quota = &self.bucket.usage.key_quota;
        let _exclusive = quota.grant_lock.lock().await;
        quota.forget_grant(self.from);
        let mut unresponsive = BTreeSet::new();
        let mut answer = self.try_grant(&mut unresponsive, false, false).await?;
        if !matches!(answer, QuotaAnswer::Granted(..)) {
            answer = self.try_grant(&mut unresponsive, true, false).await?;
        }
        if answer == QuotaAnswer::Full {
            // Keys that expired and were not removed yet are still counted.
            answer = self.try_grant(&mut unresponsive, true, true).await?;
        }
        if let QuotaAnswer::Granted(_, delay) = &mut answer {
            // Measured before the leader lease is checked, from which a grant's age counts.
            *delay = requested_at.elapsed();
        }
        // Another node may lead by now, and may have granted the same quota.
        if !home.is_serving() {
            return Err(ShardError::NotLeader);
        }
        if let QuotaAnswer::Granted(grant, _) = answer {
            quota.record_sent_grant(self.from, grant, Instant::now());
        }
        Ok(answer)
    }

    fn to_call(&self, _shard: u16) -> call::Body {
        call::Body::Quota(pb::QuotaRequest {
            bucket: Bytes::copy_from_slice(self.bucket.id.as_bytes()),
        })
    }

    fn encode(answer: QuotaAnswer) -> reply::Body {
        let (granted, id, delay) = match answer {
            QuotaAnswer::Granted(grant, delay) => (grant.keys, grant.id, delay),
            QuotaAnswer::Wait | QuotaAnswer::Full => (0, 0, Duration::ZERO),
        };
        reply::Body::Quota(pb::QuotaReply {
            granted,
            wait: answer == QuotaAnswer::Wait,
            id,
            took_us: u64::try_from(delay.as_micros()).unwrap_or(0),
        })
    }

    fn decode(reply: reply::Body) -> Option<QuotaAnswer> {
        let reply::Body::Quota(reply) = reply else {
            return None;
        };
        Some(match reply.granted {
            0 if reply.wait => QuotaAnswer::Wait,
            0 => QuotaAnswer::Full,
            keys => {
                let delay = Duration::from_micros(reply.took_us);
                QuotaAnswer::Granted(QuotaGrant { id: reply.id, keys }, delay)
            }
        })
    }
}

impl RequestQuotaLease<'_> {
    /// Grants a part of the quota that is left. Nodes in `unresponsive`, which didn't answer
    /// before, aren't asked again: one that hangs would delay the waiting writes for too long.
    async fn try_grant(
        &self,
        unresponsive: &mut BTreeSet<NodeId>,
        recall: bool,
        exact: bool,
    ) -> Result<QuotaAnswer, KeyError> {
        let (shards, bucket) = (self.shards, self.bucket);
        let mut nodes = shards.peers().same_region();
        nodes.retain(|node| !unresponsive.contains(node));
        let mut survey = UsageSurvey::default();
        survey_nodes(&mut survey, shards.peers(), &nodes, bucket, recall).await;
        unresponsive.extend(nodes.iter().filter(|node| !survey.reported.contains(node)));
        count_keys(&mut survey, shards, bucket, exact).await?;
        let quota = &bucket.usage.key_quota;
        let parts = 8 * shards.len() as u64;
        Ok(match survey.decide_grant(quota.limit(), parts) {
            GrantDecision::Block(keys) => {
                QuotaAnswer::Granted(quota.new_grant(keys), Duration::ZERO)
            }
            GrantDecision::Retry => QuotaAnswer::Wait,
            GrantDecision::Full => QuotaAnswer::Full,
        })
    }
}

/// Asks this node and others for the quota that they hold; with `recall`, they give up what is
/// unused.
async fn survey_nodes(
    survey: &mut UsageSurvey,
    peers: &Peers,
    nodes: &[NodeId],
    bucket: &Arc<Bucket>,
    recall: bool,
) {
    let quota = &bucket.usage.key_quota;
    let started_at = Instant::now();
    let queries = nodes.iter().map(|node| async move {
        let body = call::Body::QuotaQuery(pb::QuotaQuery {
            bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
            recall,
        });
        match peers
            .call(*node, StreamKind::Forwarded, body, QUERY_TIMEOUT)
            .await
        {
            Ok(reply::Body::QuotaState(state)) => Some((*node, state)),
            _ => None,
        }
    });
    for (node, state) in join_all(queries).await.into_iter().flatten() {
        survey.reported.insert(node);
        survey.leased += state.available + state.reserved;
        quota.confirm_grant(node, state.last_grant);
    }
    let local = quota.lease(recall);
    survey.reported.insert(peers.me());
    survey.leased += local.available + local.reserved;
    quota.confirm_grant(peers.me(), local.last_grant);
    survey.leased += quota.unconfirmed_keys(started_at);
}

/// Counts the bucket's keys, and adds the leaders that counted them to the survey.
async fn count_keys(
    survey: &mut UsageSurvey,
    shards: &Shards,
    bucket: &Bucket,
    exact: bool,
) -> Result<(), KeyError> {
    let counts = super::reads::GetBucketState {
        bucket: bucket.id.as_bytes(),
        exact,
    };
    let queries = shards
        .numbers()
        .map(|shard| shards.run_with_leader(shard, &counts));
    for (leader, state) in try_join_all(queries).await? {
        survey.leaders.insert(leader);
        survey.keys += state.keys;
    }
    Ok(())
}
