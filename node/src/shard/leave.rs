//! A region leaves, or is lost: it is fenced, what the others have of it is levelled, and then
//! `SetPeers` names it no more.
//!
//! Invariants:
//! - after its fence nothing that the region sends applies, so what this shard has of it is what it
//!   will pass on to the others; both are stored state, which a new leader finds;
//! - until the region is a peer no more, its cursor and watermark here stand still. So no tombstone is
//!   collected that a record from beyond its cursor could meet, however late or often that is passed
//!   on; afterwards none of them applies.

use std::io;

use cloudkv_proto::v1 as pb;

use super::held::is_of;
use super::record;
use super::state::{Response, ShardState};
use crate::store::Batch;

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
            if version.region == origin.region && record.source > origin.cursor {
                self.take_record(level.time, passed, record, version, batch)?;
            }
        }
        Ok(Response::Levelled { taken: true })
    }
}
