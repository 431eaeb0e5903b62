//! Removal of a region, deliberate or after its loss: it is fenced, the survivors reconcile what
//! each of them has of it, and then `SetPeers` no longer names it.
//!
//! Invariants:
//! - after the fence nothing that the region sends is applied, so what this shard has of it is
//!   exactly what it passes on to the others; both are stored state, which a new leader finds;
//! - until the region is removed from the peers, its watermark here doesn't advance. So no
//!   tombstone is collected that a record above it could meet, however late or often it is
//!   forwarded; after the removal none of them is applied;
//! - this shard has had every record with a version at or below the watermark, or a newer version.
//!   That doesn't hold for records at or below the cursor: a batch of a region's history leaves out
//!   what was overwritten after the batch's end.

use std::io;

use cloudkv_proto::v1 as pb;

use super::peers::is_same_history;
use super::record;
use super::response::ShardResponse;
use super::state::ShardState;
use crate::store::RowBatch;

impl ShardState {
    pub(super) fn apply_fence(&mut self, fence: &pb::Fence) -> ShardResponse {
        for named in &fence.peers {
            let mut peers = self.header.peers.iter_mut();
            if let Some(peer) = peers.find(|peer| is_same_history(peer, named)) {
                peer.fenced = true;
                peer.reconciled_round = peer.reconciled_round.max(fence.reconciled_round);
            }
        }
        ShardResponse::Done
    }

    /// Applies what another region has of a removed region.
    pub(super) fn apply_reconcile(
        &mut self,
        reconcile: &pb::Reconcile,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        let origin = reconcile.origin.unwrap_or_default();
        let mut peers = self.header.peers.iter();
        let known = peers.find(|peer| is_same_history(peer, &origin) && peer.fenced);
        let Some(origin) = known.copied().filter(|_| !self.header.seeding) else {
            return Ok(ShardResponse::Reconciled { is_applied: false });
        };
        for forwarded in &reconcile.records {
            let Some(record) = &forwarded.record else {
                continue;
            };
            let version = record::version_of(record);
            // Up to the watermark this shard has had the record, or the one that replaced it.
            if version.region == origin.region && version.time > origin.watermark {
                self.apply_remote_record(reconcile.time, forwarded, record, version, batch)?;
            }
        }
        Ok(ShardResponse::Reconciled { is_applied: true })
    }
}
