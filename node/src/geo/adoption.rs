//! Fills a new region's shards from the other regions before the region serves.
//!
//! The order, shard by shard: every other region retains changes for this region and has reported
//! its highest version; only then is one of them asked for a bulk copy from a single view, whose
//! cursors become this region's. A copy that fails starts over.

use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, shard_command::Kind as Command, walk_frame};
use cloudkv_proto::v1::{call, reply};
use futures_util::future::join_all;
use tonic::Streaming;

use super::Geo;
use crate::raft::NodeId;
use crate::rpc::Lane;
use crate::shard::{Response, ShardHandle};
use crate::store::keys::GroupId;

/// Time for the leader of another region's shard, or of this region's, to answer a query.
const ANSWER: Duration = Duration::from_secs(3);
/// Interval at which the progress of a bulk copy is logged.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A bulk copy from which nothing arrives for this long is aborted.
const STALL: Duration = Duration::from_secs(30);

/// Seeds a shard from another region. Returns the number of records received.
pub(super) async fn adopt(geo: &Geo, number: u16, shard: &ShardHandle) -> Result<u64, String> {
    let replication = shard.view().peering().borrow().clone();
    let queries = replication
        .header
        .peers
        .iter()
        .map(|peer| ask(geo, number, peer.region));
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
    let distance = |node: &NodeId| geo.vitals.of(*node).map(|health| health.round_trip);
    let source = sources.into_iter().min_by_key(distance);
    let source = source.ok_or("no region has a complete copy")?;
    let request = pb::WalkRequest {
        shard: u32::from(number),
        peer: Some(geo.me),
    };
    let copy = geo.peers.walk(source, request).await;
    let copy = copy.map_err(|status| status.message().to_owned())?;
    let from = geo.peers.address_of(source);
    tracing::info!(shard = number, from, "seeding shard from another region");
    take(number, shard, copy, last_version).await
}

/// Asks the leader of the shard in another region whether it retains changes for this region.
async fn ask(geo: &Geo, number: u16, region: u32) -> Result<(NodeId, pb::PeerReply), String> {
    let node = geo.leader_in(number, region);
    let topology = geo.catalog.topology();
    let name = topology.region_name(region).unwrap_or("?");
    let node = node.ok_or_else(|| format!("find leader of region {name}: none reported"))?;
    let query = pb::PeerQuery {
        shard: u32::from(number),
        peer: Some(geo.me),
    };
    let call = geo
        .peers
        .call(node, Lane::Geo, call::Body::Peer(query), ANSWER);
    match call.await.map_err(|error| error.to_string())? {
        reply::Body::Peer(answer) if answer.held => Ok((node, answer)),
        _ => Err(format!(
            "region {name} doesn't retain changes for this region yet"
        )),
    }
}

async fn take(
    number: u16,
    shard: &ShardHandle,
    mut copy: Streaming<pb::WalkFrame>,
    last_version: u64,
) -> Result<u64, String> {
    let mut header = None;
    let (mut count, mut last_logged) = (0, Instant::now());
    loop {
        let frame = tokio::time::timeout(STALL, copy.message()).await;
        let frame = frame.map_err(|_| "receive bulk copy: timed out".to_owned())?;
        let frame = frame.map_err(|status| status.message().to_owned())?;
        match frame.and_then(|frame| frame.kind) {
            Some(walk_frame::Kind::Head(received)) => header = Some(received),
            Some(walk_frame::Kind::Part(chunk)) => {
                count += chunk.records.len() as u64;
                propose(shard, chunk).await?;
                if last_logged.elapsed() > PROGRESS_INTERVAL {
                    last_logged = Instant::now();
                    tracing::info!(shard = number, records = count, "shard seeding in progress");
                }
            }
            Some(walk_frame::Kind::End(sent)) if sent == count => break,
            Some(walk_frame::Kind::End(_)) | None => {
                return Err("receive bulk copy: ended early".to_owned());
            }
        }
    }
    let mut end = header.ok_or("receive bulk copy: no header")?;
    end.last_version = end.last_version.max(last_version);
    let end = pb::Adopt {
        end: Some(end),
        ..Default::default()
    };
    propose(shard, end).await?;
    Ok(count)
}

async fn propose(shard: &ShardHandle, chunk: pb::Adopt) -> Result<(), String> {
    match shard.propose(Command::Adopt(chunk)).await {
        Ok(Response::Done) => Ok(()),
        Ok(_) => Err("propose seeding: unexpected response".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns whether all shards of this region serve.
pub(super) async fn all_open(geo: &Geo) -> bool {
    let near = geo.peers.near();
    let queries = (0..).zip(&geo.shards).map(|(number, shard)| {
        let near = &near;
        async move {
            if shard.leads() {
                return shard.view().is_open();
            }
            let group = GroupId::shard(number);
            let Some(node) = geo.vitals.leader_of(group, |node| near.contains(&node)) else {
                return false;
            };
            let query = pb::PeerQuery {
                shard: u32::from(number),
                peer: Some(geo.me),
            };
            let answer = geo
                .peers
                .call(node, Lane::Geo, call::Body::Peer(query), ANSWER);
            matches!(answer.await, Ok(reply::Body::Peer(answer)) if answer.open)
        }
    });
    join_all(queries).await.into_iter().all(|is_open| is_open)
}
