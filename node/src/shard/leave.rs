//! A region leaves, or is lost: it is fenced, what the others have of it is levelled, and then
//! `SetPeers` names it no more.
//!
//! Invariants:
//! - after its fence nothing that the region sends applies, so what this shard has of it is what it
//!   will pass on to the others; both are stored state, which a new leader finds;
//! - until the region is a peer no more, its watermark here stands still. So no tombstone is collected
//!   that a record from above it could meet, however late or often that is passed on; afterwards none of
//!   them applies;
//! - what has a version at or below the watermark this shard has had, or something newer. That can't be
//!   said of what is at or below the cursor: a part of a region's history leaves out what was overwritten
//!   after the part's end.

use std::io;

use cloudkv_proto::v1 as pb;

use super::held::is_of;
use super::record;
use super::state::{Response, ShardState};
use crate::store::Batch;
use crate::types::Version;

/// The first feature level of shards at which nothing of a region that leaves is left out. Below it, only
/// what was beyond the cursor was taken.
pub const LEAVE_LEVEL: u32 = 4;

impl ShardState {
    pub(super) fn apply_fence(&mut self, fence: &pb::Fence) -> Response {
        for named in &fence.peers {
            let mut peers = self.header.peers.iter_mut();
            if let Some(peer) = peers.find(|peer| is_of(peer, named)) {
                peer.fenced = true;
                peer.levelled = peer.levelled.max(fence.levelled);
            }
        }
        Response::Done
    }

    /// Takes what another region has of one that leaves.
    pub(super) fn apply_level(
        &mut self,
        level: &pb::Level,
        batch: &mut Batch,
    ) -> io::Result<Response> {
        let origin = level.origin.unwrap_or_default();
        let mut peers = self.header.peers.iter();
        let known = peers.find(|peer| is_of(peer, &origin) && peer.fenced);
        let Some(origin) = known.copied().filter(|_| !self.header.adopting) else {
            return Ok(Response::Levelled { taken: false });
        };
        for passed in &level.records {
            let Some(record) = &passed.record else {
                continue;
            };
            let version = record::version_of(record);
            if version.region == origin.region && self.may_lack(record, version, &origin) {
                self.take_record(level.time, passed, record, version, batch)?;
            }
        }
        Ok(Response::Levelled { taken: true })
    }

    /// Whether this shard may never have had a record of a region that leaves, nor what replaced it.
    fn may_lack(&self, record: &pb::Record, version: Version, origin: &pb::PeerState) -> bool {
        if self.header.level < LEAVE_LEVEL {
            return record.source > origin.cursor;
        }
        version.time > origin.watermark
    }
}
