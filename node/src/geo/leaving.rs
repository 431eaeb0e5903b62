//! Levels what this region has of regions that leave, or are lost, before they go.
//!
//! Each step is an entry of the shard or of the metadata, and is found anew by looking: so whoever
//! leads next goes on from there.
//!
//! ```text
//! operator -> metadata: leaving, a new round
//!   each shard of each region that stays: fence
//!     -> pass on what is here of them to each other region that stays -> levelled in this round
//!   all shards of a region: levelled -> metadata: levelled in this region
//!   all regions that stay -> metadata: gone -> SetPeers without them
//! ```
//!
//! Everybody passes on all that is above the others' watermarks, not only what is beyond their cursors:
//! a part of a region's history leaves out what was overwritten after its end, so who has got that part
//! may lack what another one got before; and of a region's version, another one that is lost as well may
//! have sent the only copy in place of a change of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command, shard_command::Kind as Command};
use cloudkv_proto::v1::{call, reply};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::Geo;
use crate::meta::{self, Topology};
use crate::raft::NodeId;
use crate::rpc::Lane;
use crate::shard::{LEAVE_LEVEL, Peering, ShardHandle, WalkPart};
use crate::store::keys::GroupId;

/// Time for a part to be taken.
const ANSWER: Duration = Duration::from_secs(10);
/// Parts read ahead of those that take them.
const PARTS_AHEAD: usize = 2;

/// What a shard has to do about regions that leave.
#[derive(Debug, PartialEq)]
pub(super) enum Duty {
    /// Nothing.
    None,
    /// Refuse what these send.
    Fence(Vec<pb::Peer>),
    /// Pass on what is here of these.
    Level(Vec<pb::Peer>),
}

/// What is to be done next, given what the metadata says and where the shard stands.
pub(super) fn duty(topology: &Topology, me: u32, peering: &Peering) -> Duty {
    let here = topology.region(me);
    if here.is_none_or(|here| here.leaving || here.joining) {
        return Duty::None;
    }
    let regions = topology.all_regions().iter();
    let leaving = regions.filter(|(_, region)| region.leaving);
    let states: Option<Vec<&pb::PeerState>> = leaving
        .map(|(number, region)| {
            let peer = peering.peer(*number);
            peer.filter(|peer| peer.incarnation == region.incarnation)
        })
        .collect();
    // One that isn't a peer yet becomes one first.
    let states = states.unwrap_or_default();
    let name = |peer: &&pb::PeerState| pb::Peer {
        region: peer.region,
        incarnation: peer.incarnation,
    };
    let round = topology.removal_round();
    if states.iter().any(|peer| !peer.fenced) {
        Duty::Fence(states.iter().map(name).collect())
    } else if states.iter().any(|peer| peer.levelled < round) {
        Duty::Level(states.iter().map(name).collect())
    } else {
        Duty::None
    }
}

/// Does what is to be done next for a shard that this node leads.
pub(super) async fn look(geo: &Geo, number: u16, shard: &ShardHandle, peering: &Peering) {
    let topology = geo.catalog.topology();
    let duty = duty(&topology, geo.me.region, peering);
    if duty != Duty::None && shard.view().level() < LEAVE_LEVEL {
        // Only once all nodes know of it, which the metadata's own level says.
        if geo.catalog.header().level >= meta::LEAVE_LEVEL {
            let level = pb::SetLevel { level: LEAVE_LEVEL };
            let _ = shard.propose(Command::SetLevel(level)).await;
        }
        return;
    }
    let (peers, levelled) = match duty {
        Duty::None => return,
        Duty::Fence(peers) => (peers, 0),
        Duty::Level(peers) => match level(geo, number, shard, &topology, &peers).await {
            Ok(records) => {
                let round = topology.removal_round();
                tracing::info!(
                    shard = number,
                    records,
                    round,
                    "passed on what removed regions had sent"
                );
                (peers, round)
            }
            Err(error) => {
                tracing::info!(
                    shard = number,
                    %error,
                    "passing on what removed regions had sent failed, trying again"
                );
                tokio::time::sleep(Duration::from_millis(500)).await;
                return;
            }
        },
    };
    // What came of it is seen at the next look.
    let _ = shard
        .propose(Command::Fence(pb::Fence { peers, levelled }))
        .await;
}

/// Passes on to all regions that stay what this shard has of those that leave, beyond what they have.
/// Returns the number of records passed on.
async fn level(
    geo: &Geo,
    number: u16,
    shard: &ShardHandle,
    topology: &Topology,
    origins: &[pb::Peer],
) -> Result<u64, String> {
    let regions = topology.all_regions().iter();
    let others: Vec<u32> = regions
        .filter(|(other, region)| **other != geo.me.region && !region.leaving)
        .map(|(other, _)| *other)
        .collect();
    let mut lowest: BTreeMap<u32, u64> = BTreeMap::new();
    let mut leaders = Vec::new();
    for region in &others {
        let node = geo.leader_in(number, *region);
        let node = node.ok_or_else(|| format!("region {region} has no leader"))?;
        leaders.push(node);
        for origin in origins {
            let state = ask(geo, number, node, *origin).await?;
            if !state.fenced {
                return Err(format!("region {region} hasn't fenced them yet"));
            }
            let low = lowest.entry(origin.region).or_insert(u64::MAX);
            *low = state.watermark.min(*low);
        }
    }
    if leaders.is_empty() {
        return Ok(0);
    }
    pass_on(geo, number, shard, (&leaders, origins, &lowest)).await
}

/// Reads all that the shard has, in one view, and passes on what others lack.
async fn pass_on(
    geo: &Geo,
    number: u16,
    shard: &ShardHandle,
    (leaders, origins, lowest): (&[NodeId], &[pb::Peer], &BTreeMap<u32, u64>),
) -> Result<u64, String> {
    let (parts, mut walk) = mpsc::channel(PARTS_AHEAD);
    let view = shard.view().clone();
    let reading = tokio::task::spawn_blocking(move || {
        view.walk(|part| {
            let gone = |_| std::io::Error::other("nobody takes it");
            parts.blocking_send(part).map_err(gone)
        })
    });
    let mut count = 0;
    while let Some(part) = walk.recv().await {
        let WalkPart::Part(part) = part else { continue };
        for origin in origins {
            let watermark = lowest.get(&origin.region).copied().unwrap_or(0);
            let records = lacking(&part.records, origin.region, watermark);
            if records.is_empty() {
                continue;
            }
            count += records.len() as u64;
            let calls = leaders
                .iter()
                .map(|node| tell(geo, number, *node, *origin, records.clone()));
            for told in join_all(calls).await {
                told?;
            }
        }
    }
    let read = reading.await.map_err(|error| error.to_string())?;
    read.map_err(|error| error.to_string())?;
    Ok(count)
}

/// The records of a region above a watermark.
fn lacking(records: &[pb::KeyRecord], region: u32, watermark: u64) -> Vec<pb::KeyRecord> {
    let lacks = |record: &&pb::KeyRecord| {
        let version = record.record.as_ref().and_then(|record| record.version);
        version.is_some_and(|it| it.region == region && it.time > watermark)
    };
    records.iter().filter(lacks).cloned().collect()
}

/// How far a shard of another region is with one that leaves.
async fn ask(
    geo: &Geo,
    number: u16,
    node: NodeId,
    origin: pb::Peer,
) -> Result<pb::PeerState, String> {
    let state = tell(geo, number, node, origin, Vec::new()).await?;
    state.ok_or_else(|| format!("node {node} doesn't know region {}", origin.region))
}

async fn tell(
    geo: &Geo,
    number: u16,
    node: NodeId,
    origin: pb::Peer,
    records: Vec<pb::KeyRecord>,
) -> Result<Option<pb::PeerState>, String> {
    let body = call::Body::Level(pb::LevelCall {
        shard: u32::from(number),
        level: Some(pb::Level {
            time: 0,
            origin: Some(origin),
            records,
        }),
    });
    let answer = geo.peers.call(node, Lane::Geo, body, ANSWER).await;
    match answer.map_err(|error| error.to_string())? {
        reply::Body::Level(answer) => Ok(answer.state),
        reply::Body::Refused(refused) => Err(format!("node {node} refuses: {}", refused.message)),
        _ => Err("an answer to something else".to_owned()),
    }
}

/// Tells the metadata when all shards of this region have levelled those that leave.
pub(super) async fn confirm(geo: &Geo) {
    let topology = geo.catalog.topology();
    let (region, round) = (geo.me.region, topology.removal_round());
    let regions = topology.all_regions().iter();
    let origins: Vec<pb::Peer> = regions
        .filter(|(_, region)| region.leaving)
        .map(|(number, region)| pb::Peer {
            region: *number,
            incarnation: region.incarnation,
        })
        .collect();
    let stays = topology
        .region(region)
        .is_some_and(|it| !it.leaving && !it.joining);
    if origins.is_empty() || !stays || topology.levelled_in().contains(&region) {
        return;
    }
    if !all_levelled(geo, &origins, round).await {
        return;
    }
    let levelled = pb::RegionLevelled { region, round };
    match (geo.propose)(meta_command::Kind::RegionLevelled(levelled)).await {
        Ok(()) => tracing::info!(
            round,
            "all shards have passed on what removed regions had sent"
        ),
        Err(declined) => {
            let reason = declined.reason;
            tracing::info!(reason, "change of the metadata refused, trying again");
        }
    }
}

async fn all_levelled(geo: &Geo, origins: &[pb::Peer], round: u64) -> bool {
    let near = geo.peers.near();
    let asked = (0..).zip(&geo.shards).map(|(number, shard)| {
        let near = &near;
        async move {
            for origin in origins {
                let state = if shard.leads() {
                    let peering = shard.view().peering().borrow().clone();
                    peering.state_of(origin)
                } else {
                    let group = GroupId::shard(number);
                    let leader = geo.vitals.leader_of(group, |node| near.contains(&node));
                    match leader {
                        Some(node) => ask(geo, number, node, *origin).await.ok(),
                        None => None,
                    }
                };
                if state.is_none_or(|state| state.levelled < round) {
                    return false;
                }
            }
            true
        }
    });
    join_all(asked).await.into_iter().all(|levelled| levelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_region_wrote_above_a_watermark_is_passed_on() {
        let record = |region, time| pb::KeyRecord {
            record: Some(pb::Record {
                version: Some(pb::Version { time, region }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let records = [record(2, 4), record(2, 5), record(3, 9), record(2, 0)];
        assert_eq!(lacking(&records, 2, 4), [record(2, 5)]);
    }
}
