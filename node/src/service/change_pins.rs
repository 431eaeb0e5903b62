//! Pins of recent changes at all nodes of the region: whoever reads a bucket for long can be told
//! of all changes since, by any node.
//!
//! A pin ends by itself unless it is renewed. A node that doesn't answer doesn't count: it may be
//! down, and one that comes back begins with an empty memory anyway.

use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::join_all;

use super::shards::Shards;
use crate::raft::NodeId;
use crate::rpc::StreamKind;

/// Maximum time after which a pin ends.
const MAX_PIN_TTL: Duration = Duration::from_secs(120);
/// Timeout of pinning at another node.
const PIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps the recent changes behind positions, each a shard's number and an index of its log, at all
/// nodes of the region until `ttl` has passed; zero ends the pin of this ID. Returns whether every
/// node that answered has all these changes of its replicas.
pub(super) async fn pin_changes(
    shards: &Shards,
    id: u64,
    positions: &[(u16, u64)],
    ttl: Duration,
) -> bool {
    let here = pin_here(shards, id, positions, ttl);
    let nodes = shards.peers().same_region().into_iter();
    let elsewhere = nodes.map(|node| pin_at(shards, node, encode(id, positions, ttl)));
    all_reach_back(here, join_all(elsewhere).await)
}

/// Handles the call of another node that pins changes.
pub(super) fn handle_pin(shards: &Shards, pin: &pb::PinChanges) -> reply::Body {
    let ttl = Duration::from_millis(u64::from(pin.ttl_ms));
    let reaches_back = pin_here(shards, pin.id, &decode(pin), ttl);
    reply::Body::Pin(pb::PinReply { reaches_back })
}

/// Pins changes of this node's replicas. A shard without one has nothing to say.
fn pin_here(shards: &Shards, id: u64, positions: &[(u16, u64)], ttl: Duration) -> bool {
    let until = Instant::now() + ttl.min(MAX_PIN_TTL);
    let mut reaches_back = true;
    for (shard, after) in positions {
        let Some(shard) = shards.local(*shard) else {
            continue;
        };
        let changes = shard.view().recent_changes();
        if ttl.is_zero() {
            changes.unpin(id);
        } else if shard.has_replica() {
            reaches_back &= changes.pin(id, *after, until);
        }
    }
    reaches_back
}

/// Pins changes at another node; `None` if it doesn't answer, or doesn't know the call.
async fn pin_at(shards: &Shards, node: NodeId, pin: pb::PinChanges) -> Option<bool> {
    let (peers, body) = (shards.peers(), call::Body::Pin(pin));
    let reply = peers.call(node, StreamKind::Forwarded, body, PIN_TIMEOUT);
    match reply.await {
        Ok(reply::Body::Pin(reply)) => Some(reply.reaches_back),
        Ok(_) | Err(_) => None,
    }
}

fn all_reach_back(here: bool, elsewhere: Vec<Option<bool>>) -> bool {
    here && elsewhere.into_iter().all(|answer| answer != Some(false))
}

fn encode(id: u64, positions: &[(u16, u64)], ttl: Duration) -> pb::PinChanges {
    let ttl = ttl.min(MAX_PIN_TTL).as_millis();
    let positions = positions.iter().map(|(shard, index)| pb::ShardPosition {
        shard: u32::from(*shard),
        index: *index,
    });
    pb::PinChanges {
        id,
        ttl_ms: u32::try_from(ttl).unwrap_or(u32::MAX),
        positions: positions.collect(),
    }
}

/// Returns the positions of a call. Shards that no cluster can have are left out.
fn decode(pin: &pb::PinChanges) -> Vec<(u16, u64)> {
    let positions = pin.positions.iter();
    positions
        .filter_map(|position| Some((u16::try_from(position.shard).ok()?, position.index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_survive_encoding_and_are_bounded_in_time() {
        let positions = [(0, 7), (2, u64::MAX)];
        let pin = encode(5, &positions, Duration::from_secs(60));
        assert_eq!((pin.id, pin.ttl_ms), (5, 60_000));
        assert_eq!(decode(&pin), positions);
        assert_eq!(encode(5, &[], Duration::MAX).ttl_ms, 120_000);
        assert_eq!(encode(5, &[], Duration::ZERO).ttl_ms, 0);
        let beyond = pb::ShardPosition {
            shard: 1 << 16,
            index: 1,
        };
        let pin = pb::PinChanges {
            positions: vec![beyond],
            ..pin
        };
        assert!(decode(&pin).is_empty());
    }

    #[test]
    fn all_that_answer_must_have_the_changes() {
        assert!(all_reach_back(true, vec![]));
        assert!(all_reach_back(true, vec![Some(true), None]));
        assert!(!all_reach_back(true, vec![None, Some(false)]));
        assert!(!all_reach_back(false, vec![Some(true)]));
    }
}
