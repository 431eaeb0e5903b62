//! Fills a new region's shards from the other regions before the region serves.
//!
//! The order, shard by shard: every other region retains changes for this region and has reported
//! its highest version; only then is one of them asked for a bulk copy from a single view, whose
//! cursors become this region's. A copy that fails starts over.

use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, bulk_copy_frame, shard_command::Kind as Command};
use cloudkv_proto::v1::{call, reply};
use futures_util::future::join_all;
use tonic::Streaming;

use super::replication::GeoReplication;
use crate::raft::NodeId;
use crate::rpc::{CallError, StreamKind};
use crate::shard::{KEY_METADATA_LEVEL, ShardHandle, ShardResponse, have_metadata};

/// Time for the leader of another region's shard, or of this region's, to answer a query.
const PEER_QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval at which the progress of a bulk copy is logged.
const PROGRESS_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A bulk copy from which nothing arrives for this long is aborted.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Seeds a shard from another region. Returns the number of records received.
pub(super) async fn seed(
    geo: &GeoReplication,
    number: u16,
    shard: &ShardHandle,
) -> Result<u64, String> {
    let replication = shard.view().replication().borrow().clone();
    let queries = replication
        .header
        .peers
        .iter()
        .map(|peer| query_retention(geo, number, peer.region));
    let mut sources = Vec::new();
    let mut last_version = 0;
    for answer in join_all(queries).await {
        let (node, answer) = answer?;
        last_version = last_version.max(answer.last_version);
        if answer.open {
            sources.push(node);
        }
    }
    // The source with the shortest round trip.
    let distance = |node: &NodeId| {
        geo.failure_detector
            .health(*node)
            .map(|health| health.round_trip)
    };
    let source = sources.into_iter().min_by_key(distance);
    let source = source.ok_or("no region has a complete copy")?;
    let request = pb::BulkCopyRequest {
        shard: u32::from(number),
        peer: Some(geo.local),
    };
    let copy = geo.peers.open_bulk_copy(source, request).await;
    let copy = copy.map_err(|status| status.message().to_owned())?;
    let from = geo.peers.address_of(source);
    tracing::info!(shard = number, from, "seeding shard from another region");
    receive_copy(number, shard, copy, last_version).await
}

/// Asks the leader of the shard in another region whether it retains changes for this region.
async fn query_retention(
    geo: &GeoReplication,
    number: u16,
    region: u32,
) -> Result<(NodeId, pb::PeerReply), String> {
    let node = geo.leader_in(number, region);
    let topology = geo.catalog.topology();
    let name = topology.region_name(region).unwrap_or("?");
    let node = node.ok_or_else(|| format!("find leader of region {name}: none reported"))?;
    let answer = query_peer(geo, number, node).await;
    let asked = geo.peers.name_of(node);
    let failed = |error: CallError| format!("ask {asked} of region {name}: {error}");
    match answer.map_err(failed)? {
        Some(answer) if answer.retained => Ok((node, answer)),
        Some(_) | None => Err(format!(
            "region {name} doesn't retain changes for this region yet"
        )),
    }
}

/// Asks the leader of a shard about its state and about what it has of this region; `None` if it
/// refuses.
pub(super) async fn query_peer(
    geo: &GeoReplication,
    number: u16,
    leader: NodeId,
) -> Result<Option<pb::PeerReply>, CallError> {
    let query = call::Body::Peer(pb::PeerQuery {
        shard: u32::from(number),
        peer: Some(geo.local),
    });
    let call = geo
        .peers
        .call(leader, StreamKind::Geo, query, PEER_QUERY_TIMEOUT);
    match call.await? {
        reply::Body::Peer(answer) => Ok(Some(answer)),
        _ => Ok(None),
    }
}

async fn receive_copy(
    number: u16,
    shard: &ShardHandle,
    mut copy: Streaming<pb::BulkCopyFrame>,
    last_version: u64,
) -> Result<u64, String> {
    let mut header = None;
    let (mut count, mut last_logged) = (0, Instant::now());
    loop {
        let frame = tokio::time::timeout(STALL_TIMEOUT, copy.message()).await;
        let frame = frame.map_err(|_| "receive bulk copy: timed out".to_owned())?;
        let frame = frame.map_err(|status| status.message().to_owned())?;
        match frame.and_then(|frame| frame.kind) {
            Some(bulk_copy_frame::Kind::Position(received)) => header = Some(received),
            Some(bulk_copy_frame::Kind::Chunk(chunk)) => {
                count += chunk.records.len() as u64;
                propose_chunk(shard, chunk).await?;
                if last_logged.elapsed() > PROGRESS_LOG_INTERVAL {
                    last_logged = Instant::now();
                    tracing::info!(shard = number, records = count, "shard seeding in progress");
                }
            }
            Some(bulk_copy_frame::Kind::End(sent)) if sent == count => break,
            Some(bulk_copy_frame::Kind::End(_)) | None => {
                return Err("receive bulk copy: ended early".to_owned());
            }
        }
    }
    let mut end = header.ok_or("receive bulk copy: no header")?;
    end.last_version = end.last_version.max(last_version);
    let end = pb::SeedChunk {
        end: Some(end),
        ..Default::default()
    };
    propose_chunk(shard, end).await?;
    Ok(count)
}

async fn propose_chunk(shard: &ShardHandle, chunk: pb::SeedChunk) -> Result<(), String> {
    if have_metadata(&chunk.records) {
        let raised = shard.raise_level(KEY_METADATA_LEVEL).await;
        raised.map_err(|error| error.to_string())?;
    }
    match shard.propose(Command::Seed(chunk)).await {
        Ok(ShardResponse::Done) => Ok(()),
        Ok(_) => Err("propose seeding: unexpected response".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns whether all shards of this region serve.
pub(super) async fn is_region_serving(geo: &GeoReplication) -> bool {
    let queries = (0..).zip(&geo.shards).map(|(number, shard)| async move {
        if shard.is_leading() {
            return shard.view().is_open();
        }
        let Some(leader) = geo.leader_here(number) else {
            return false;
        };
        matches!(query_peer(geo, number, leader).await, Ok(Some(answer)) if answer.open)
    });
    join_all(queries).await.into_iter().all(|is_open| is_open)
}
