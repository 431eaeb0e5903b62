//! Answers the senders of other regions, and regions that join.

use std::io;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::shard_command::Kind as Command;
use cloudkv_proto::v1::{bulk_copy_frame, refused::Reason, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tonic::Status;

use super::replication::GeoReplication;
use crate::cluster::MAX_CLOCK_OFFSET;
use crate::rpc::BulkCopyStream;
use crate::shard::{
    BulkCopyChunk, KEY_METADATA_LEVEL, MergeError, ReplicationView, ShardResponse, have_metadata,
};

/// Chunks of a bulk copy read ahead of the connection that sends them.
const READAHEAD_CHUNKS: usize = 2;

impl GeoReplication {
    /// Merges a batch of another region's changes. Batches are queued in the order of the calls.
    pub(crate) fn handle_merge(&self, call: pb::MergeCall) -> BoxFuture<'static, reply::Body> {
        let outcome = match self.queue_merge(call) {
            Ok(QueuedMerge::UpToDate(cursor)) => {
                return std::future::ready(merge_reply(true, cursor)).boxed();
            }
            Ok(QueuedMerge::Pending(outcome)) => outcome,
            Err((reason, message)) => return std::future::ready(refuse(reason, message)).boxed(),
        };
        async move {
            match outcome.await {
                Ok(Ok(outcome)) => merge_reply(outcome.is_known, outcome.cursor),
                Ok(Err(MergeError::NotLeader)) => refuse(Reason::NotLeader, ""),
                Ok(Err(MergeError::Overloaded)) => refuse(Reason::Busy, "the merge queue is full"),
                Ok(Err(MergeError::Unknown)) | Err(_) => refuse(Reason::UnknownOutcome, ""),
            }
        }
        .boxed()
    }

    fn queue_merge(&self, call: pb::MergeCall) -> Result<QueuedMerge, (Reason, &'static str)> {
        let number = u16::try_from(call.shard).unwrap_or(u16::MAX);
        let shard = self.shard(call.shard);
        let shard = shard.ok_or((Reason::Failed, "no such shard"))?;
        let merge = call.merge.ok_or((Reason::Failed, "an empty call"))?;
        if !shard.is_serving() {
            return Err((Reason::NotLeader, "this node does not lead the shard"));
        }
        if shard.gate().refuses(true).is_some() {
            return Err((Reason::Busy, "the disks are nearly full"));
        }
        if shard.view().level() < KEY_METADATA_LEVEL && have_metadata(&merge.records) {
            // The controller raises it.
            return Err((
                Reason::Busy,
                "the shard's feature level has to be raised first",
            ));
        }
        if self.is_ahead_of_clock(&merge) {
            if self.status.record_ahead(number, merge.origin) {
                let topology = self.catalog.topology();
                tracing::warn!(
                    shard = number,
                    region = topology.region_name(merge.origin),
                    "changes refused until the clock has caught up with their versions"
                );
            }
            return Err((Reason::Busy, "the changes are ahead of the clock here"));
        }
        self.status
            .record_received(number, merge.origin, call.lag_us);
        let replication = shard.view().replication().borrow().clone();
        let peer = replication.peer(merge.origin);
        let is_removed = || self.catalog.topology().region(merge.origin).is_none();
        if peer.is_some_and(|peer| peer.fenced) || (peer.is_none() && is_removed()) {
            return Err((Reason::Failed, "the region was removed, or isn't known yet"));
        }
        match cursor_if_known(&replication, &merge) {
            Some(cursor) => Ok(QueuedMerge::UpToDate(cursor)),
            None => match shard.merge(merge, call.low_priority) {
                Ok(outcome) => Ok(QueuedMerge::Pending(outcome)),
                Err(MergeError::NotLeader) => Err((Reason::NotLeader, "")),
                Err(_) => Err((Reason::Busy, "the merge queue is full")),
            },
        }
    }

    /// Returns whether a change is further ahead than clocks may be: if merged, it would win every
    /// conflict until then.
    fn is_ahead_of_clock(&self, merge: &pb::Merge) -> bool {
        let latest = u64::try_from(MAX_CLOCK_OFFSET.as_nanos()).unwrap_or(u64::MAX);
        let latest = self.clock.now().saturating_add(latest);
        let written = merge
            .records
            .iter()
            .filter_map(|record| record.record.as_ref());
        written
            .filter_map(|record| record.version)
            .any(|version| version.time > latest)
    }

    /// Answers a joining region whether its changes are retained, and what the highest version is.
    pub(crate) fn handle_peer_query(&self, query: &pb::PeerQuery) -> reply::Body {
        let Some(shard) = self.shard(query.shard).filter(|shard| shard.is_leading()) else {
            return refuse(Reason::NotLeader, "this node does not lead the shard");
        };
        let replication = shard.view().replication().borrow().clone();
        reply::Body::Peer(pb::PeerReply {
            retained: query
                .peer
                .is_some_and(|peer| is_retaining_for(&replication, &peer)),
            last_version: shard.view().last_version(),
            open: shard.view().is_open(),
        })
    }

    /// Takes another region's records of a removed region. Without records it only answers with the
    /// shard's progress.
    pub(crate) fn handle_reconcile(
        &self,
        call: pb::ReconcileCall,
    ) -> BoxFuture<'static, reply::Body> {
        let shard = self.shard(call.shard).filter(|shard| shard.is_leading());
        let (Some(shard), Some(reconcile)) = (shard.cloned(), call.reconcile) else {
            let refusal = refuse(Reason::NotLeader, "this node does not lead the shard");
            return std::future::ready(refusal).boxed();
        };
        let reconcile = pb::Reconcile {
            time: self.clock.now(),
            ..reconcile
        };
        async move {
            let origin = reconcile.origin.unwrap_or_default();
            let state = || shard.view().replication().borrow().peer_state(&origin);
            if !reconcile.records.is_empty() {
                // The entry would change nothing before the fence.
                if state().is_none_or(|state| !state.fenced) {
                    return refuse(Reason::Failed, "the region is not fenced here");
                }
                if have_metadata(&reconcile.records)
                    && let Err(error) = shard.raise_level(KEY_METADATA_LEVEL).await
                {
                    return refuse(Reason::UnknownOutcome, &error.to_string());
                }
                match shard.propose(Command::Reconcile(reconcile)).await {
                    Ok(ShardResponse::Reconciled { is_applied: true }) => {}
                    Ok(_) => return refuse(Reason::Failed, "the region is not fenced here"),
                    Err(error) => return refuse(Reason::UnknownOutcome, &error.to_string()),
                }
            }
            let state = state();
            reply::Body::Reconcile(pb::ReconcileReply { state })
        }
        .boxed()
    }

    /// Computes digests of a shard that this node leads.
    pub(crate) fn handle_digest_query(
        &self,
        query: pb::DigestQuery,
    ) -> BoxFuture<'static, reply::Body> {
        let shard = self.shard(query.shard).filter(|shard| shard.is_serving());
        let permit = self.digest_permit.clone().try_acquire_owned();
        let (Some(shard), Ok(permit)) = (shard.cloned(), permit) else {
            let refusal = refuse(
                Reason::Busy,
                "this node doesn't lead the shard, or is computing another digest",
            );
            return std::future::ready(refusal).boxed();
        };
        async move {
            let view = shard.view().clone();
            let computed = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                view.range_digests(query.at, query.ranges)
            });
            match computed.await {
                // Everything committed before the query is included if this node still leads.
                Ok(Ok(digests)) if shard.is_serving() => reply::Body::Digest(pb::DigestReply {
                    own: digests.header.change_last,
                    cursors: digests.header.peers,
                    digests: digests.sums,
                    records: digests.records,
                }),
                Ok(Ok(_)) => refuse(Reason::NotLeader, "this node does not lead the shard"),
                Ok(Err(error)) => refuse(Reason::Failed, &error.to_string()),
                Err(error) => refuse(Reason::Failed, &error.to_string()),
            }
        }
        .boxed()
    }

    /// Streams all records of a shard to a region that joins.
    pub(crate) fn start_bulk_copy(
        &self,
        request: &pb::BulkCopyRequest,
    ) -> Result<BulkCopyStream, Status> {
        let shard = self.shard(request.shard).filter(|shard| shard.is_serving());
        let shard =
            shard.ok_or_else(|| Status::unavailable("this node does not lead the shard"))?;
        let replication = shard.view().replication().borrow().clone();
        if !request
            .peer
            .is_some_and(|peer| is_retaining_for(&replication, &peer))
        {
            return Err(Status::failed_precondition(
                "no changes are retained for the region yet",
            ));
        }
        let (frames, stream) = mpsc::channel(READAHEAD_CHUNKS);
        let view = shard.view().clone();
        tokio::task::spawn_blocking(move || {
            let mut count = 0;
            let send = |kind| {
                let frame = pb::BulkCopyFrame { kind: Some(kind) };
                let disconnected =
                    |_| io::Error::new(io::ErrorKind::BrokenPipe, "receiver disconnected");
                frames.blocking_send(Ok(frame)).map_err(disconnected)
            };
            let scanned = view.bulk_copy(|chunk| {
                send(match chunk {
                    BulkCopyChunk::Header(header) => bulk_copy_frame::Kind::Position(header),
                    BulkCopyChunk::Records(chunk) => {
                        count += chunk.records.len() as u64;
                        bulk_copy_frame::Kind::Chunk(chunk)
                    }
                })
            });
            let outcome = scanned.and_then(|()| send(bulk_copy_frame::Kind::End(count)));
            if let Err(error) = outcome {
                // Without a final frame the other region starts over.
                let _ = frames.blocking_send(Err(Status::aborted(error.to_string())));
            }
        });
        Ok(BulkCopyStream::new(stream))
    }
}

/// Merge that waits for its entry, or that needs none.
enum QueuedMerge {
    UpToDate(u64),
    Pending(tokio::sync::oneshot::Receiver<Result<crate::shard::MergeOutcome, MergeError>>),
}

fn is_retaining_for(replication: &ReplicationView, peer: &pb::Peer) -> bool {
    let known = replication.peer(peer.region);
    known.is_some_and(|known| known.incarnation == peer.incarnation)
}

/// Returns the cursor if a heartbeat brings nothing new.
fn cursor_if_known(replication: &ReplicationView, merge: &pb::Merge) -> Option<u64> {
    let peer = replication.peer(merge.origin)?;
    let known = peer.incarnation == merge.incarnation
        && merge.from == merge.to
        && merge.watermark <= peer.watermark
        && merge.stable <= peer.stable;
    known.then_some(peer.cursor)
}

fn merge_reply(known: bool, cursor: u64) -> reply::Body {
    reply::Body::Merge(pb::MergeReply { cursor, known })
}

fn refuse(reason: Reason, message: &str) -> reply::Body {
    reply::Body::Refused(pb::Refused {
        reason: reason.into(),
        message: message.to_owned(),
        leader: 0,
    })
}
