//! Other regions, as a shard's header records them: who they are, and how far each has got.

use cloudkv_proto::v1 as pb;

use crate::types::Nanos;

/// Replication state of a shard, as published to its replication controller.
#[derive(Clone, Debug, Default)]
pub struct ReplicationView {
    /// The shard's header; its peers are the other regions.
    pub header: pb::ShardHeader,
}

impl ReplicationView {
    /// Returns the state of another region.
    pub fn peer(&self, region: u32) -> Option<&pb::PeerState> {
        self.header.peers.iter().find(|peer| peer.region == region)
    }

    /// Returns the state of another region, if it has this incarnation.
    pub fn peer_state(&self, peer: &pb::Peer) -> Option<pb::PeerState> {
        let state = self.peer(peer.region).copied();
        state.filter(|state| state.incarnation == peer.incarnation)
    }

    /// Returns the position up to which every other region has this one's changes.
    pub fn acknowledged_by_all(&self) -> u64 {
        acknowledged_by_all(&self.header)
    }
}

/// Returns the position up to which every other region has this one's changes.
pub(super) fn acknowledged_by_all(header: &pb::ShardHeader) -> u64 {
    let peers = header.peers.iter();
    let lowest = peers.map(|peer| peer.acknowledged).min();
    lowest.unwrap_or(header.change_last)
}

/// Returns the lowest watermark of all other regions: no tombstone of a version above it can be
/// collected.
pub(super) fn lowest_watermark(header: &pb::ShardHeader) -> Nanos {
    let watermarks = header.peers.iter().map(|peer| peer.watermark);
    watermarks.min().unwrap_or(Nanos::MAX)
}

/// Returns whether a state is that of a region in this incarnation.
pub(super) fn is_same_history(state: &pb::PeerState, peer: &pb::Peer) -> bool {
    state.region == peer.region && state.incarnation == peer.incarnation
}
