//! Target of a fault.

use cloudkv_test_harness::region::Region;
use cloudkv_test_harness::rng::Rng;

/// The node that a fault is to hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// The node at this seat, whatever its role.
    Seat(usize),
    /// The leader of the metadata group.
    MetaLeader,
    /// The leader of this shard.
    ShardLeader(u32),
}

impl FaultTarget {
    /// Draws a random target.
    pub(super) fn draw(rng: &mut Rng, nodes: usize, shards: u32) -> Self {
        match rng.range(0..3) {
            0 => Self::MetaLeader,
            1 => Self::ShardLeader(u32::try_from(rng.index(shards as usize)).unwrap_or(0)),
            _ => Self::Seat(rng.index(nodes)),
        }
    }

    /// Returns the seat that the target means now, or `fallback` where a group has no leader, and
    /// whether the fault hits the leader that it was aimed at.
    pub(super) async fn resolve(self, region: &Region, fallback: usize) -> (usize, bool) {
        let leader = match self {
            Self::Seat(seat) => return (seat, false),
            Self::MetaLeader => region.leader_of("meta").await,
            Self::ShardLeader(shard) => region.leader_of(&format!("shard-{shard}")).await,
        };
        (leader.unwrap_or(fallback), leader.is_some())
    }
}
