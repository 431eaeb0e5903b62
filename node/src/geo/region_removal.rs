//! Reconciles this region's copy of removed or lost regions with the other regions before they are
//! removed.
//!
//! Each step is an entry of a shard or of the metadata, and the next step is derived from the
//! state: so the next leader continues from there.
//!
//! ```text
//! operator -> metadata: region is being removed, in a new round
//!   each shard of each region that stays: fence
//!     -> send the records of the removed regions to each other region that stays
//!     -> reconciled in this round
//!   all shards of a region: reconciled -> metadata: reconciled in this region
//!   all regions that stay: reconciled -> metadata: removed -> SetPeers without them
//! ```
//!
//! Every region sends all records above the others' watermarks, not only those beyond their
//! cursors: a batch of a region's history leaves out what was overwritten after its end, so a
//! region that has that batch may lack what another one received before; and another lost region
//! may have sent the only copy of such a record in place of a change of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command, shard_command::Kind as Command};
use cloudkv_proto::v1::{call, reply};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::replication::GeoReplication;
use crate::meta::Topology;
use crate::raft::NodeId;
use crate::rpc::StreamKind;
use crate::shard::{BulkCopyChunk, ReplicationView, ShardHandle};

/// Time for another region to apply one chunk.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(10);
/// Chunks read ahead of the regions that receive them.
const READAHEAD_CHUNKS: usize = 2;

/// Next step of a shard for the regions that are being removed.
#[derive(Debug, PartialEq)]
pub(super) enum RemovalStep {
    /// Nothing is left to do.
    None,
    /// Refuse changes from these regions.
    Fence(Vec<pb::Peer>),
    /// Send the records of these regions to the other regions.
    Reconcile(Vec<pb::Peer>),
}

/// Determines the next step from the metadata and the shard's state.
pub(super) fn next_step(
    topology: &Topology,
    me: u32,
    replication: &ReplicationView,
) -> RemovalStep {
    let own = topology.region(me);
    if own.is_none_or(|own| own.is_removing || own.is_joining) {
        return RemovalStep::None;
    }
    let regions = topology.all_regions().iter();
    let removing = regions.filter(|(_, region)| region.is_removing);
    let states: Option<Vec<&pb::PeerState>> = removing
        .map(|(number, region)| {
            let peer = replication.peer(*number);
            peer.filter(|peer| peer.incarnation == region.incarnation)
        })
        .collect();
    // A region that isn't a peer yet becomes one first.
    let states = states.unwrap_or_default();
    let to_peer = |peer: &&pb::PeerState| pb::Peer {
        region: peer.region,
        incarnation: peer.incarnation,
    };
    let round = topology.removal_round();
    if states.iter().any(|peer| !peer.fenced) {
        RemovalStep::Fence(states.iter().map(to_peer).collect())
    } else if states.iter().any(|peer| peer.reconciled_round < round) {
        RemovalStep::Reconcile(states.iter().map(to_peer).collect())
    } else {
        RemovalStep::None
    }
}

/// Runs the next step for a shard that this node leads.
pub(super) async fn run_next_step(
    geo: &GeoReplication,
    number: u16,
    shard: &ShardHandle,
    replication: &ReplicationView,
) {
    let topology = geo.catalog.topology();
    let step = next_step(&topology, geo.local.region, replication);
    let (peers, reconciled) = match step {
        RemovalStep::None => return,
        RemovalStep::Fence(peers) => (peers, 0),
        RemovalStep::Reconcile(peers) => {
            match reconcile(geo, number, shard, &topology, &peers).await {
                Ok(records) => {
                    let round = topology.removal_round();
                    tracing::info!(
                        shard = number,
                        records,
                        round,
                        "shard reconciled for removed regions"
                    );
                    (peers, round)
                }
                Err(error) => {
                    tracing::info!(
                        shard = number,
                        %error,
                        "shard reconciliation failed, retrying"
                    );
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    return;
                }
            }
        }
    };
    // The next check sees the result.
    let _ = shard
        .propose(Command::Fence(pb::Fence {
            peers,
            reconciled_round: reconciled,
        }))
        .await;
}

/// Sends this shard's records of the removed regions to all regions that stay, above their
/// watermarks. Returns the number of records sent.
async fn reconcile(
    geo: &GeoReplication,
    number: u16,
    shard: &ShardHandle,
    topology: &Topology,
    origins: &[pb::Peer],
) -> Result<u64, String> {
    let regions = topology.all_regions().iter();
    let others: Vec<u32> = regions
        .filter(|(other, region)| **other != geo.local.region && !region.is_removing)
        .map(|(other, _)| *other)
        .collect();
    let mut lowest: BTreeMap<u32, u64> = BTreeMap::new();
    let mut leaders = Vec::new();
    for region in &others {
        let node = geo.leader_in(number, *region);
        let node = node.ok_or_else(|| format!("find leader of region {region}: none reported"))?;
        leaders.push(node);
        for origin in origins {
            let state = query_state(geo, number, node, *origin).await?;
            if !state.fenced {
                return Err(format!(
                    "region {region} hasn't fenced the removed regions yet"
                ));
            }
            let low = lowest.entry(origin.region).or_insert(u64::MAX);
            *low = state.watermark.min(*low);
        }
    }
    if leaders.is_empty() {
        return Ok(0);
    }
    send_missing(geo, number, shard, (&leaders, origins, &lowest)).await
}

/// Reads all records of the shard from one view and sends the others those that they lack.
async fn send_missing(
    geo: &GeoReplication,
    number: u16,
    shard: &ShardHandle,
    (leaders, origins, lowest): (&[NodeId], &[pb::Peer], &BTreeMap<u32, u64>),
) -> Result<u64, String> {
    let (chunks, mut received) = mpsc::channel(READAHEAD_CHUNKS);
    let view = shard.view().clone();
    let reader = tokio::task::spawn_blocking(move || {
        view.bulk_copy(|chunk| {
            let disconnected = |_| std::io::Error::other("receiver disconnected");
            chunks.blocking_send(chunk).map_err(disconnected)
        })
    });
    let mut count = 0;
    while let Some(chunk) = received.recv().await {
        let BulkCopyChunk::Records(chunk) = chunk else {
            continue;
        };
        for origin in origins {
            let watermark = lowest.get(&origin.region).copied().unwrap_or(0);
            let records = records_above(&chunk.records, origin.region, watermark);
            if records.is_empty() {
                continue;
            }
            count += records.len() as u64;
            let calls = leaders
                .iter()
                .map(|node| send_records(geo, number, *node, *origin, records.clone()));
            for result in join_all(calls).await {
                result?;
            }
        }
    }
    let outcome = reader.await.map_err(|error| error.to_string())?;
    outcome.map_err(|error| error.to_string())?;
    Ok(count)
}

/// Selects the records that a region wrote above a watermark.
fn records_above(records: &[pb::KeyRecord], region: u32, watermark: u64) -> Vec<pb::KeyRecord> {
    let is_lacking = |record: &&pb::KeyRecord| {
        let version = record.record.as_ref().and_then(|record| record.version);
        version.is_some_and(|it| it.region == region && it.time > watermark)
    };
    records.iter().filter(is_lacking).cloned().collect()
}

/// Queries the progress of another region's shard with a removed region.
pub(super) async fn query_state(
    geo: &GeoReplication,
    number: u16,
    node: NodeId,
    origin: pb::Peer,
) -> Result<pb::PeerState, String> {
    let state = send_records(geo, number, node, origin, Vec::new()).await?;
    state.ok_or_else(|| {
        format!(
            "query node {node}: it doesn't know region {}",
            origin.region
        )
    })
}

async fn send_records(
    geo: &GeoReplication,
    number: u16,
    node: NodeId,
    origin: pb::Peer,
    records: Vec<pb::KeyRecord>,
) -> Result<Option<pb::PeerState>, String> {
    let body = call::Body::Reconcile(pb::ReconcileCall {
        shard: u32::from(number),
        reconcile: Some(pb::Reconcile {
            time: 0,
            origin: Some(origin),
            records,
        }),
    });
    let answer = geo
        .peers
        .call(node, StreamKind::Geo, body, RECONCILE_TIMEOUT)
        .await;
    match answer.map_err(|error| error.to_string())? {
        reply::Body::Reconcile(answer) => Ok(answer.state),
        reply::Body::Refused(refused) => {
            Err(format!("send to node {node}: refused: {}", refused.message))
        }
        _ => Err("send to other region: unexpected response".to_owned()),
    }
}

/// Reports to the metadata once all shards of this region are reconciled.
pub(super) async fn report_reconciled(geo: &GeoReplication) {
    let topology = geo.catalog.topology();
    let (region, round) = (geo.local.region, topology.removal_round());
    let regions = topology.all_regions().iter();
    let origins: Vec<pb::Peer> = regions
        .filter(|(_, region)| region.is_removing)
        .map(|(number, region)| pb::Peer {
            region: *number,
            incarnation: region.incarnation,
        })
        .collect();
    let is_staying = topology
        .region(region)
        .is_some_and(|it| !it.is_removing && !it.is_joining);
    if origins.is_empty() || !is_staying || topology.reconciled_regions().contains(&region) {
        return;
    }
    if !is_reconciled(geo, &origins, round).await {
        return;
    }
    let reconciled = pb::RegionReconciled { region, round };
    match (geo.propose)(meta_command::Kind::RegionReconciled(reconciled)).await {
        Ok(()) => tracing::info!(round, "region reconciled for removed regions"),
        Err(refusal) => {
            let reason = refusal.reason;
            tracing::info!(reason, "metadata change refused, retrying");
        }
    }
}

async fn is_reconciled(geo: &GeoReplication, origins: &[pb::Peer], round: u64) -> bool {
    let queries = (0..).zip(&geo.shards).map(|(number, shard)| async move {
        for origin in origins {
            let state = if shard.is_leading() {
                let replication = shard.view().replication().borrow().clone();
                replication.peer_state(origin)
            } else {
                match geo.leader_here(number) {
                    Some(node) => query_state(geo, number, node, *origin).await.ok(),
                    None => None,
                }
            };
            if state.is_none_or(|state| state.reconciled_round < round) {
                return false;
            }
        }
        true
    });
    join_all(queries)
        .await
        .into_iter()
        .all(|reconciled| reconciled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_of_the_region_above_the_watermark_are_sent() {
        let record = |region, time| pb::KeyRecord {
            record: Some(pb::Record {
                version: Some(pb::Version { time, region }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let records = [record(2, 4), record(2, 5), record(3, 9), record(2, 0)];
        assert_eq!(records_above(&records, 2, 4), [record(2, 5)]);
    }
}
